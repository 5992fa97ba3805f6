"""What incremental certification keeps of the radius, and what it saves, for any number of samples.

    python benchmarks/incremental.py

No network is run. Probabilities of the top class are spread as those of the network that was trained with
noise (mode 32, sigma 0.25; benchmarks/results/search_certified.json). For each, the second mode is certified
on the counts that it has on average: from scratch with n samples, from m of its own alone, and from the first
mode's bound less what the class loses. The last row of a block lets the rule of `Incremental` choose.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm

from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import Smoothing, lower_bound, radius, upper_bound

SIGMA, ALPHA = 0.25, 0.001
HELD = Path(__file__).parent / "results" / "search_certified.json"


def probabilities(count: int) -> np.ndarray:
    """Of the top class, for ``count`` images: radii in even steps between those that were counted."""
    row = json.loads(HELD.read_text())["rows"]["32"]["scratch"]["certified_accuracy"]
    radii, above = zip(*sorted((float(r), share) for r, share in row.items()), strict=True)
    ranks = (np.arange(count) + 0.5) / count  # of the share of images with a larger radius
    found = np.interp(ranks, above[::-1], radii[::-1], right=-1.0)
    return np.where(found < 0, 0.5, norm.cdf(found / SIGMA))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200)
    args = parser.parse_args()
    spread = probabilities(args.images)

    def acr(bound: Callable[[float], float]) -> float:
        return float(np.mean([radius(bound(p), SIGMA) for p in spread]))

    print("| n | m | own samples | lost 0 % | lost 1 % | lost 3 % | as the rule chooses, lost 1 % |")
    print("|---|---|---|---|---|---|---|")
    for n in (1000, 10_000, 100_000):
        scratch = acr(lambda p, n=n: lower_bound(round(p * n), n, ALPHA))
        for part in (8, 4, 2):
            m = n // part
            rule = Incremental(Smoothing(SIGMA, n, alpha=ALPHA), m)

            def own(p: float, m: int = m) -> float:
                return lower_bound(round(p * m), m, 2 * ALPHA)

            def less(p: float, lost: float, n: int = n, m: int = m) -> float:
                return max(0.0, lower_bound(round(p * n), n, ALPHA) - upper_bound(round(lost * m), m, ALPHA))

            def chosen(p: float, rule: Incremental = rule) -> float:
                return own(p) if rule.takes_own_samples(round(p, 2)) else less(p, 0.01)

            ways = [own, *(lambda p, z=z: less(p, z) for z in (0.0, 0.01, 0.03)), chosen]
            print(f"| {n} | {m} | {' | '.join(f'{100 * acr(way) / scratch:.1f}' for way in ways)} |")


if __name__ == "__main__":
    main()
