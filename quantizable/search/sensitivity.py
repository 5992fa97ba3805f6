"""Sensitivity: one layer at a time in each mode, all others in the network's highest."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.functional import dequantize
from quantizable.interface.progress import progress
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer
from quantizable.nn.watching import watching
from quantizable.quantizers import Quantizer
from quantizable.report.files import write_text
from quantizable.report.plots import save_figure
from quantizable.search.scoring import Scorer
from quantizable.search.space import Space


@dataclass(frozen=True)
class Sensitivity:
    """What it does to the network to run one layer in one mode.

    Attributes:
        layer, mode: which.
        accuracy, agreement: of the network, fractions; agreement with its highest mode.
        kl: Kullback-Leibler divergence of its answers from the highest mode's, nats.
        weight_sqnr, input_sqnr: signal to quantization noise of the layer's weight and input, dB;
            infinite where nothing is quantized.
    """

    layer: str
    mode: str
    accuracy: float
    agreement: float
    kl: float
    weight_sqnr: float
    input_sqnr: float


@torch.no_grad()
def sqnr(x: Tensor, quantizer: Quantizer, bits: int) -> float:
    """Signal-to-quantization-noise ratio ``10 log10(|x|^2 / |x - q(x)|^2)``, dB."""
    return decibels(energies(x, quantizer, bits))


def energies(x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """``|x|^2`` and ``|x - q(x)|^2``, float64 ``[2]``: they add up over the uses of a layer."""
    signal = x.double().square().sum()
    if bits == FLOAT_BITS:
        return torch.stack([signal, torch.zeros_like(signal)])
    noise = (x - dequantize(quantizer.codes(x, bits), quantizer.qparams(x, bits))).double().square().sum()
    return torch.stack([signal, noise])


def decibels(signal_and_noise: Tensor) -> float:
    """The ratio of two energies, infinite where there is no noise."""
    signal, noise = signal_and_noise
    return float(10 * torch.log10(signal / noise)) if noise else float("inf")


@torch.inference_mode()
def noise_ratios(
    network: QuantizableNetwork, space: Space, images: Tensor
) -> dict[tuple[str, BitMode], tuple[float, float]]:
    """SQNR (dB) of (weight, input) by layer and mode; inputs are those of the network in its highest mode.

    Layers without a weight or input of their own to quantize (attention products) are left out.
    """
    ratios: dict[tuple[str, BitMode], tuple[float, float]] = {}
    given: dict[tuple[str, int], Tensor] = {}

    def measure(name: str, layer: QuantLayer, inputs: tuple[Tensor, ...]) -> None:
        weight = {b: sqnr(layer.float_weight(), layer.weight_quantizer, b) for b in space.weights}
        for b in space.activations:
            found = energies(inputs[0], layer.input_quantizer, b)
            given[name, b] = given.get((name, b), 0) + found
        for mode in space.modes:
            ratios[name, mode] = weight[mode.weight], decibels(given[name, mode.activation])

    layers = {n: m for n, m in network.layers().items() if n in space.layers and isinstance(m, QuantLayer)}
    layers = {n: m for n, m in layers.items() if m.input_quantizer.widths != [FLOAT_BITS]}  # embeddings
    with watching(layers, measure, before=True), network.at_bits(network.modes[-1]):
        network(images)
    return ratios


def sensitivity(scorer: Scorer, space: Space, modes: Sequence[BitMode]) -> list[Sensitivity]:
    """Every free layer in every one of ``modes``, the rest of the network in its highest mode.

    Args:
        scorer: of the network; what it has measured before is read from disk.
        space: the free layers.
        modes: modes of the space.
    """
    network = scorer.network
    top = network.modes[-1]
    rest = {name: layer.resolve(top) for name, layer in network.layers().items()}
    ratios = noise_ratios(network, space, scorer.images[:64])
    nothing = (float("nan"), float("nan"))
    rows = []
    for name in progress(space.layers, "sensitivity"):
        for mode in modes:
            score = scorer({**rest, name: mode})
            noise = ratios.get((name, mode), nothing)
            rows.append(
                Sensitivity(name, mode.name, score["accuracy"], score["agreement"], score["kl"], *noise)
            )
    return rows


def print_sensitivity(rows: Sequence[Sensitivity]) -> None:
    """Print a table, a row per layer and mode."""
    headings = ("layer", "mode", "accuracy %", "agreement %", "KL, nats", "weight SQNR, dB", "input SQNR, dB")
    table = Table(*headings, title="one layer at a time")
    for row in rows:
        shares = (f"{100 * row.accuracy:.2f}", f"{100 * row.agreement:.2f}", f"{row.kl:.5f}")
        table.add_row(row.layer, row.mode, *shares, f"{row.weight_sqnr:.1f}", f"{row.input_sqnr:.1f}")
    Console().print(table)


def write_sensitivity(folder: Path, rows: Sequence[Sensitivity]) -> None:
    """``sensitivity.csv`` and ``sensitivity.png`` (KL divergence and weight SQNR by layer) in ``folder``."""
    from matplotlib.figure import Figure

    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Sensitivity)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / "sensitivity.csv", text.getvalue())

    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(max(6, 0.4 * len(layers)), 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for mode in dict.fromkeys(row.mode for row in rows):
        own = [row for row in rows if row.mode == mode]
        upper.semilogy([r.layer for r in own], [max(r.kl, 1e-7) for r in own], "o-", label=mode)
        lower.plot([r.layer for r in own], [r.weight_sqnr for r in own], "o-", label=mode)
    upper.set_ylabel("KL from the highest mode, nats")
    lower.set_ylabel("SQNR of the weight, dB")
    lower.tick_params(axis="x", rotation=90)
    upper.legend(title="mode", ncols=3)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    save_figure(figure, folder / "sensitivity.png")
