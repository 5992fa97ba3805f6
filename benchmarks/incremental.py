"""How many samples incremental certification needs: what it saves, and what of the radius it keeps.

    python benchmarks/incremental.py --checkpoint checkpoints/cifar10_resnet20.qz --root data \
        --output benchmarks/results/incremental.json

Asks two modes about the same noisy images. The shares of these votes stand for the true probabilities; from
them follow the radii that each way to certify the second mode has on average of its counts, for any number of
samples: from scratch with n, from m of its own samples alone, and from the first mode's bound less zeta.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from search import spread

import quantizable
from quantizable.certify.smoothing import Smoothing, lower_bound, radius, upper_bound
from quantizable.data import CIFAR10
from quantizable.data.choice import trained_data
from quantizable.report.files import write_json
from quantizable.storage.assignment import noisy_inputs

ALPHA = 0.001


def votes(args: argparse.Namespace) -> list[dict[str, float]]:
    """Of each image: whether the answer is right, and shares of the top class in both modes and lost."""
    network = quantizable.load(args.checkpoint)
    data = trained_data(network, [f"data.root={args.root}"])
    assert isinstance(data, CIFAR10)
    data.prepare_data()
    data.setup()
    clean = [x for _, (x, _) in zip(range(2), data.train_dataloader(), strict=False)]
    noisy = list(noisy_inputs(clean, args.sigma, data.std))
    *others, top = network.modes
    network.reestimate_norms(noisy, modes=[top])
    network.reestimate_norms(noisy, modes=others)
    images, labels = spread(data.test_dataloader(), args.images)
    smoothing = Smoothing(args.sigma, args.n, std=data.std)
    rows = []
    for i, (x, y) in enumerate(zip(images, labels, strict=True)):
        given = {}
        for mode in (args.first, args.second):
            with network.at_bits(mode):
                given[mode] = smoothing.votes(network, x, i, 1, args.n)
        first, second = given[args.first], given[args.second]
        best = int(first.bincount().argmax())
        rows.append(
            {
                "right": best == int(y),
                "first": (first == best).double().mean().item(),
                "second": (second == best).double().mean().item(),
                "lost": ((first == best) & (second != best)).double().mean().item(),
                "differ": (first != second).double().mean().item(),
            }
        )
        print(i, rows[-1], flush=True)
    return rows


def radii(rows: list[dict[str, float]], n: int, m: int, sigma: float) -> dict[str, float]:
    """ACR of the second mode from scratch with ``n`` samples, and in both ways with ``m``."""

    def acr(bound: object) -> float:
        return float(np.mean([row["right"] * radius(bound(row), sigma) for row in rows]))  # type: ignore[operator]

    def less(row: dict[str, float], share: str) -> float:
        first = lower_bound(round(row["first"] * n), n, ALPHA)
        return max(0.0, first - upper_bound(round(row[share] * m), m, ALPHA))

    def own(row: dict[str, float]) -> float:
        return lower_bound(round(row["second"] * m), m, 2 * ALPHA)

    scratch = acr(lambda row: lower_bound(round(row["second"] * n), n, ALPHA))
    return {
        "n": n,
        "m": m,
        "scratch": scratch,
        "own samples alone": acr(own) / scratch,
        "less zeta, all differences": acr(lambda row: less(row, "differ")) / scratch,
        "less zeta, what is lost": acr(lambda row: less(row, "lost")) / scratch,
        "the better for each image": acr(lambda row: max(less(row, "lost"), own(row))) / scratch,
    }


def main() -> None:
    """Take the votes, once, and print what the ways keep of the radius."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="data folder, with CIFAR-10 in it")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/incremental.json"))
    parser.add_argument("--first", default="8")
    parser.add_argument("--second", default="4")
    parser.add_argument("--images", type=int, default=20, help="test images")
    parser.add_argument("--n", type=int, default=600, help="votes of each image and mode")
    parser.add_argument("--sigma", type=float, default=0.12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.output.read_text())["votes"] if args.output.is_file() else votes(args)
    table = [radii(rows, n, n // part, args.sigma) for n in (1000, 10_000, 100_000) for part in (10, 4, 2)]
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("output", "root", "checkpoint")}
    write_json(
        args.output, {"checkpoint": args.checkpoint.name, "settings": settings, "votes": rows, "table": table}
    )
    for row in table:
        print(" | ".join(f"{name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
