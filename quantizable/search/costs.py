"""What an assignment costs: bit operations, bytes of weights, or measured milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from quantizable.bits import BitMode
from quantizable.measure.cost import bit_operations
from quantizable.measure.macs import count_macs
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer


@dataclass(frozen=True)
class Cost:
    """A cost that adds up over layers.

    Anything that knows what a layer costs in a mode can be one; ``latency_table`` reads measurements.

    Attributes:
        name: ``"bops"``, ``"bytes"``, ``"latency"`` or your own.
        unit: for tables and pictures.
        of: (layer name, mode that it runs in) to cost.
    """

    name: str
    unit: str
    of: Callable[[str, BitMode], float]

    def total(self, assignment: Mapping[str, BitMode]) -> float:
        """The cost of an assignment that names the mode of every layer."""
        return sum(self.of(name, mode) for name, mode in assignment.items())


def macs(network: QuantizableNetwork, image: torch.Tensor) -> dict[str, int]:
    """Multiply-accumulates of each switchable layer for one image ``[1, C, H, W]``.

    Attention that is quantized counts its two products only; its projections are layers of their own.
    """
    counted = count_macs(network, image).own
    return {name: counted.get(name, 0) for name in network.layers()}


def bops_cost(network: QuantizableNetwork, image: torch.Tensor) -> Cost:
    """Bit operations per image of the layers that switch, as ``measure.cost`` counts them."""
    counts, layers = macs(network, image), network.layers()
    return Cost(
        "bops",
        "bit operations per image",
        lambda name, mode: bit_operations(layers[name], counts[name], mode),
    )


def bytes_cost(network: QuantizableNetwork) -> Cost:
    """Bytes of the quantized layers' packed weights; norms and biases, always the same, are left out."""
    sizes = {
        n: m.float_weight().numel() if isinstance(m, QuantLayer) else 0 for n, m in network.layers().items()
    }
    return Cost("bytes", "bytes of weights", lambda name, mode: sizes[name] * mode.weight / 8)


def latency_cost(path: str | Path, network: QuantizableNetwork) -> Cost:
    """Milliseconds per image from a JSON file ``{layer: {mode: milliseconds}}`` of measurements.

    ``quantizable cost CHECKPOINT --engine openvino --layer-latency FILE`` makes one.

    Raises:
        ValueError: no such file, or it is not of that form or lacks a layer.
    """
    try:
        table = {
            name: {BitMode.parse(mode): float(ms) for mode, ms in modes.items()}
            for name, modes in json.loads(Path(path).read_text()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no latency table {{layer: {{mode: milliseconds}}}}: {error}") from error
    if wrong := sorted({ms for row in table.values() for ms in row.values() if not 0 <= ms < float("inf")}):
        raise ValueError(f"the latency table {path} holds {wrong[0]}; milliseconds are finite and at least 0")
    if missing := [name for name in network.layers() if name not in table]:
        raise ValueError(f"the latency table {path} lacks layer {', '.join(missing)}")

    def of(name: str, mode: BitMode) -> float:
        if mode not in table[name]:
            raise ValueError(f"the latency table {path} lacks mode {mode.name} of layer {name!r}")
        return table[name][mode]

    return Cost("latency", "milliseconds per image", of)
