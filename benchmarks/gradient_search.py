"""The gradient search against DIVA and chance on pairs of MNIST networks, on which its settings were chosen.

    python benchmarks/gradient_search.py MNIST NETWORKS

MNIST is the folder of t10k-images-idx3-ubyte.gz, NETWORKS that of p1_784_100_10.npz and
p2_784_100_100_10.npz. Each pair is a float network and itself with weights rounded to a few bits. *Transfer*
hides the gradient of the rounded one, *surrogate* both and gives that of the other network, *none* gives no
gradient.
"""

import argparse
import gzip
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from steps import machine
from torch import Tensor

from quantizable.assess.callables import Pair
from quantizable.assess.images import Images
from quantizable.assess.searchers import Diva, Gradient, LInf, RandomNoise, Searcher
from quantizable.assess.searchers.comparison import agreeing, compare_searchers
from quantizable.report.files import write_json

NETWORKS = {"P1": "p1_784_100_10.npz", "P2": "p2_784_100_100_10.npz"}
ROUNDED = (("P1", 4), ("P1", 8), ("P2", 6))
LIMITS = ((0.1, 180), (0.03, 100))  # and the budget under each
SEEDS = 100
Network = Callable[[Tensor], Tensor]


def network(path: Path, bits: int | None = None) -> Network:
    """A fully connected ReLU network of pixels in [0, 1], its weights rounded if asked for."""
    arrays = {name: torch.from_numpy(value).float() for name, value in np.load(path).items()}
    count = len(arrays) // 2
    for i in range(count if bits else 0):
        step = arrays[f"W{i}"].abs().max() / (2 ** (bits - 1) - 1)  # type: ignore[operator]
        arrays[f"W{i}"] = (arrays[f"W{i}"] / step).round() * step

    def run(pixels: Tensor) -> Tensor:
        x = pixels.flatten(1)
        for i in range(count):
            x = x @ arrays[f"W{i}"].T + arrays[f"b{i}"]
            x = x.relu() if i < count - 1 else x
        return x

    return run


def images(folder: Path, count: int) -> Images:
    """The first test images."""
    read = [
        np.frombuffer(
            gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset
        )
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    ]
    pixels = torch.from_numpy(read[0].copy()).view(-1, 1, 28, 28)[:count].float() / 255
    return Images(pixels, torch.from_numpy(read[1].copy()).long()[:count])


def hidden(model: Network) -> Network:
    """The same without a gradient."""
    return lambda pixels: model(pixels).detach()


def pairs(folder: Path) -> list[tuple[Pair, list[Searcher]]]:
    """Each with the searchers that it can take."""
    found: list[tuple[Pair, list[Searcher]]] = []
    for name, bits in ROUNDED:
        other = network(folder / NETWORKS["P2" if name == "P1" else "P1"])
        first, second = network(folder / NETWORKS[name]), network(folder / NETWORKS[name], bits)
        bare, title = hidden(second), f"{name}, {bits} bits"
        found += [
            (Pair(first, second, title), [RandomNoise(), Diva(), Gradient()]),
            (Pair(first, bare, f"{title}, transfer"), [Gradient()]),
            (Pair(hidden(first), bare, f"{title}, surrogate", other), [Gradient()]),
            (Pair(hidden(first), bare, f"{title}, none"), [Gradient()]),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnist", type=Path)
    parser.add_argument("networks", type=Path)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gradient_search.json"))
    options = parser.parse_args()
    shown, rows = images(options.mnist, 2 * SEEDS), []
    for pair, searchers in pairs(options.networks):
        seeds = agreeing(pair, shown, SEEDS)
        for eps, budget in LIMITS:
            for row, _ in compare_searchers(pair, seeds, searchers, LInf(eps), budget):
                rows.append(asdict(row))
                print(
                    f"{row.pair}, {eps}, {row.searcher}: {100 * row.success[0]:.0f} %, {row.queries} queries"
                )
    write_json(options.json, {"machine": machine("cpu"), "rows": rows})


if __name__ == "__main__":
    main()
