"""Class agreement of bit modes around test images: proved, refuted or open, over growing boxes.

    python benchmarks/verify_agreement.py --networks mlp conv
    python benchmarks/verify_agreement.py --networks lenet --data DATA      # DATA/mnist
    python benchmarks/verify_agreement.py --networks resnet --cifar ROOT    # torchvision's root

The digits networks are those of ``verify_digits.py``, LeNet-5 is trained on 8000 of MNIST's test images (the
rest is for testing), the ResNet-20 is the shipped one (mode 8 takes the place of 32, which it lacks). Each
network's part of ``benchmarks/results/verify_agreement.json`` is replaced by its new run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from verify_digits import architectures, train

import quantizable
from quantizable.report.files import write_text
from quantizable.verify import (
    EXECUTIONS,
    Box,
    Graph,
    Line,
    agree_along,
    decide_agreement,
    graph_of,
    largest_radius,
)

NETWORKS = ("mlp", "conv", "lenet", "resnet")
RADII = (0.0, 1 / 2040, 1 / 510, 1 / 255, 0.01, 0.03)  # share of the range from black to white
LINES = (("brightness", 0.05), ("contrast", 0.2))  # and how far in both directions
SHIPPED = Path("checkpoints/cifar10_resnet20.qz")


def lenet() -> nn.Module:
    """LeNet-5 with ReLU and max pooling."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def mnist(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    def read(name: str, skip: int) -> np.ndarray:
        raw = gzip.decompress((data / "mnist" / f"t10k-{name}-ubyte.gz").read_bytes())
        return np.frombuffer(raw, np.uint8, offset=skip).copy()

    images = torch.from_numpy(read("images-idx3", 16).reshape(-1, 1, 28, 28)).float() / 255
    return images, torch.from_numpy(read("labels-idx1", 8)).long()


def prepared(
    name: str, args: argparse.Namespace
) -> tuple[dict[str, Graph], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Graphs by mode (the first is compared with the others), images in [0, 1], and their mean and std."""
    torch.manual_seed(0)
    if name == "resnet":
        from torchvision.datasets import CIFAR10

        network = quantizable.load(SHIPPED)
        mean, std = (torch.tensor(network.info[key]).double().reshape(3, 1, 1) for key in ("mean", "std"))
        raw = CIFAR10(args.cifar, train=False).data[: args.images].transpose(0, 3, 1, 2)
        pixels, modes = torch.from_numpy(raw.copy()).double() / 255, (8, 4, 2)
    else:
        if name == "lenet":
            images, labels = mnist(args.data)
            model, count, epochs = lenet(), 8000, 2
        else:
            digits = load_digits()
            images, labels = (
                torch.from_numpy(digits.images).float()[:, None] / 16,
                torch.from_numpy(digits.target),
            )
            model, count, epochs = (
                architectures()["MLP 64-32-32-10" if name == "mlp" else "residual conv"],
                1438,
                20,
            )
        order = torch.randperm(len(images))
        network = train(model, images[order[:count]], labels[order[:count]], epochs)
        pixels, modes = images[order[count : count + args.images]].double(), (32, 8, 4, 2)
        mean, std = torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    return {str(m): graph_of(network, tuple(pixels.shape[1:]), m) for m in modes}, pixels, mean, std


def around(x: torch.Tensor, scale: torch.Tensor, radius: float) -> Box:
    return Box(x - radius * scale, x + radius * scale)


def along_lines(
    graphs: dict[str, Graph],
    pixels: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    execution: str,
    kinds: list[str],
) -> list[dict]:
    """Agreement on lines of brightness and contrast through each image."""
    first = next(iter(graphs))
    rows: list[dict] = []
    if len(pixels) == 0:
        return rows
    for kind, reach in LINES:
        if kind not in kinds:
            continue
        start = time.perf_counter()
        found = []
        for image in pixels:
            before = {m: Line.of(kind, image).before(graph, mean, std) for m, graph in graphs.items()}
            others = {m: graph for m, graph in before.items() if m != first}
            found.append(
                agree_along(before[first], others, -reach, reach, smallest=2.0**-6, execution=execution)
            )
        seconds = (time.perf_counter() - start) / len(pixels)
        for mode in found[0]:
            counts = Counter(one[mode].status for one in found)
            share = sum(one[mode].share for one in found) / len(found)
            rows.append({"line": kind, "reach": reach, "mode": mode, **counts, "share": share,
                         "seconds_per_image": seconds})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp", "conv"])
    parser.add_argument("--data", type=Path, help="folder with mnist/")
    parser.add_argument("--cifar", type=Path, help="torchvision's root of CIFAR-10")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--radii", type=float, nargs="+", default=RADII)
    parser.add_argument("--method", default="combined", help="of the bounds")
    parser.add_argument("--milp", action="store_true", help="ask the MILP what bounds and search leave open")
    parser.add_argument("--execution", choices=EXECUTIONS, default="real", help="what runs the networks")
    parser.add_argument("--line-images", type=int, default=0, help="images to change in brightness, contrast")
    parser.add_argument("--lines", nargs="+", choices=dict(LINES), default=[*dict(LINES)])
    parser.add_argument("--radius-images", type=int, default=10, help="images to find the largest radius of")
    parser.add_argument(
        "--time-limit", type=float, default=5.0, help="seconds of search for each image and mode"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verify_agreement.json"))
    args = parser.parse_args()
    for name in args.networks:
        graphs, pixels, mean, std = prepared(name, args)
        x, scale = (pixels - mean) / std, 1 / std
        first, *_ = graphs
        others = {mode: graph for mode, graph in graphs.items() if mode != first}
        rows = []
        for radius in args.radii:
            counts = {mode: Counter() for mode in others}
            start = time.perf_counter()
            for i in range(len(x)):
                box = around(x[i : i + 1], scale, radius)
                verdicts = decide_agreement(
                    graphs[first],
                    others,
                    box,
                    args.time_limit,
                    args.milp,
                    args.method,
                    execution=args.execution,
                )
                for mode, verdict in verdicts.items():
                    counts[mode][verdict.status] += 1
            seconds = (time.perf_counter() - start) / len(x)
            rows += [
                {"radius": radius, "mode": m, **c, "seconds_per_image": seconds} for m, c in counts.items()
            ]
            print(
                name, f"{radius:.6f}", {m: dict(c) for m, c in counts.items()}, f"{seconds:.2f} s", flush=True
            )
        found = [
            largest_radius(
                partial(around, x[i : i + 1], scale),
                graphs[first],
                others,
                args.radii[-1],
                7,
                args.method,
                execution=args.execution,
            )
            for i in range(min(len(x), args.radius_images))
        ]
        radii = {mode: [one[mode] for one in found] for mode in others}
        print(
            name,
            {
                mode: sorted(r or 0.0 for r in values)[len(values) // 2]
                for mode, values in radii.items()
                if values
            },
        )
        results = json.loads(args.output.read_text()) if args.output.exists() else {}
        settings = {
            "images": len(x),
            "method": args.method,
            "execution": args.execution,
            "first": first,
            "time_limit": args.time_limit,
            "milp": args.milp,
        }
        results[name if args.execution == "real" else f"{name} {args.execution}"] = {
            "settings": settings,
            "verdicts": rows,
            "largest_radius": radii,
            "lines": along_lines(graphs, pixels[: args.line_images], mean, std, args.execution, args.lines),
        }
        write_text(args.output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
