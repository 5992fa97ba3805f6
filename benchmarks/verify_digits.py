"""Proved error of bit modes 2, 4 and 8 against 32 on networks trained here, over growing boxes.

    python benchmarks/verify_digits.py

Trains an MLP and a small residual convolutional network on scikit-learn's 8x8 digits in all four
modes at once (seed fixed), then bounds how far the predicted class's output can differ from the
float mode's, for test images and boxes of several radii. Writes the table to
``benchmarks/results/verify_digits.json`` and the plot to ``docs/results/verify_digits.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import quantizable
from quantizable.verify import Box, mode_difference_bounds
from quantizable.verify.trace import graph_of

MODES = (2, 4, 8)
RADII = (0.001, 0.003, 0.01, 0.03)  # share of the ink range; one grey level of 17 is 0.0625


class Residual(nn.Module):
    """``relu(x + norm(conv(x)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def architectures() -> dict[str, nn.Module]:
    """An MLP with two hidden layers and a convolutional network with one residual block."""
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    conv = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        Residual(6),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    return {"MLP 64-32-32-10": mlp, "residual conv": conv}


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> quantizable.QuantizableNetwork:
    """Float first, then all modes in each step: the mean of their cross-entropies."""
    fit(model, [model], x, y, epochs, 3e-3)
    network = quantizable.quantize(model.eval(), [*MODES, 32], "lsq", first_last="mode")
    network.calibrate([x[:256]])
    modes = [lambda batch, m=mode: _at(network, m, batch) for mode in (*MODES, 32)]
    fit(network, modes, x, y, epochs, 1e-3)
    network.reestimate_norms([x[i : i + 128] for i in range(0, len(x), 128)])
    return network.eval()


def _at(network: quantizable.QuantizableNetwork, mode: int, batch: torch.Tensor) -> torch.Tensor:
    network.set_bits(mode)
    return network(batch)


def fit(owner: nn.Module, forwards: list, x: torch.Tensor, y: torch.Tensor, epochs: int, lr: float) -> None:
    owner.train()
    optimizer = torch.optim.Adam(owner.parameters(), lr)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(64):
            losses = [F.cross_entropy(forward(x[index]), y[index]) for forward in forwards]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(network: quantizable.QuantizableNetwork, mode: int, x: torch.Tensor, y: torch.Tensor) -> float:
    with network.at_bits(mode):
        return float((network(x).argmax(1) == y).double().mean())


def measure(network: quantizable.QuantizableNetwork, x: torch.Tensor) -> list[dict]:
    """Proved and sampled largest difference of the predicted class, per mode and radius."""
    shape = tuple(x.shape[1:])
    graphs = {mode: graph_of(network, shape, mode) for mode in (*MODES, 32)}
    first = graphs.pop(32)
    x = x.double()
    output = first(x).argmax(1, keepdim=True)
    rows = []
    for radius in RADII:
        box = Box.around(x, radius, 0, 1)
        start = time.process_time()
        found = mode_difference_bounds(first, {str(m): g for m, g in graphs.items()}, box)
        seconds = (time.process_time() - start) / len(x) / len(MODES)
        for mode in MODES:
            bounds = found[str(mode)].output
            low, high = (side.gather(1, output)[:, 0] for side in bounds)
            sampled = torch.zeros(len(x), dtype=torch.float64)
            for _ in range(200):
                point = box.low + (box.high - box.low) * torch.rand(box.low.shape).round()
                difference = (graphs[mode](point) - first(point)).gather(1, output)[:, 0]
                if ((difference < low) | (difference > high)).any():
                    raise AssertionError(f"a sampled difference escapes its bounds at mode {mode}")
                sampled = torch.maximum(sampled, difference.abs())
            proved = torch.maximum(-low, high)
            rows.append(
                {
                    "mode": mode,
                    "radius": radius,
                    "proved": float(proved.mean()),
                    "sampled": float(sampled.mean()),
                    "cpu_seconds_per_image_and_mode": seconds,
                }
            )
    return rows


def plot(results: dict[str, dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for i, (name, result) in enumerate(results.items()):
        axes = figure.add_subplot(1, len(results), i + 1)
        for color, mode in zip(("tab:red", "tab:orange", "tab:blue"), MODES, strict=True):
            rows = [r for r in result["bounds"] if r["mode"] == mode]
            radii = [r["radius"] for r in rows]
            axes.plot(radii, [r["proved"] for r in rows], "o-", color=color, label=f"{mode} bits, proved")
            axes.plot(radii, [r["sampled"] for r in rows], ":", color=color, label="largest of 200 samples")
        axes.set(xscale="log", yscale="log", xlabel="radius (share of the ink range)", title=name)
        if i == 0:
            axes.set_ylabel("error against 32 bits (logit)")
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="float, and again in all modes")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verify_digits.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/results/verify_digits.png"))
    args = parser.parse_args()
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    y = torch.from_numpy(digits.target)
    order = torch.randperm(len(x))
    train_set, test_set = order[:1438], order[1438:]
    results: dict[str, dict] = {}
    table = Table(title="Mean proved bound (and largest sampled) of the error against 32 bits, in logits")
    for column in ("network", "bits", "accuracy", *(f"radius {r}" for r in RADII)):
        table.add_column(column)
    for name, model in architectures().items():
        network = train(model, x[train_set], y[train_set], args.epochs)
        accuracies = {m: accuracy(network, m, x[test_set], y[test_set]) for m in (*MODES, 32)}
        bounds = measure(network, x[test_set[: args.images]])
        results[name] = {"accuracy": accuracies, "images": args.images, "bounds": bounds}
        for mode in MODES:
            cells = [f"{r['proved']:.3f} ({r['sampled']:.3f})" for r in bounds if r["mode"] == mode]
            table.add_row(name, str(mode), f"{accuracies[mode]:.3f}", *cells)
        table.add_row(name, "32", f"{accuracies[32]:.3f}", *["0"] * len(RADII))
    Console(width=120).print(table)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part = args.output.with_suffix(".json.part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, args.output)
    plot(results, args.plot)


if __name__ == "__main__":
    main()
