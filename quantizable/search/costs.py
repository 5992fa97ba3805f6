"""What an assignment costs: bit operations, bytes of weights, mean bits, or measured milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.measure.cost import bit_operations
from quantizable.measure.macs import count_macs
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer
from quantizable.nn.network_inputs import network_inputs
from quantizable.nn.passes import evaluating
from quantizable.nn.watching import watching


@dataclass(frozen=True)
class Cost:
    """A cost that adds up over layers.

    Anything that knows what a layer costs in a mode can be one; ``latency_table`` reads measurements.

    Attributes:
        name: ``"bops"``, ``"bytes"``, ``"weight_bits"``, ``"activation_bits"``, ``"latency"`` or your own.
        unit: for tables and pictures.
        of: (layer name, mode that it runs in) to cost.
    """

    name: str
    unit: str
    of: Callable[[str, BitMode], float]

    def total(self, assignment: Mapping[str, BitMode]) -> float:
        """The cost of an assignment that names the mode of every layer."""
        return sum(self.of(name, mode) for name, mode in assignment.items())


def macs(network: QuantizableNetwork, image: Tensor) -> dict[str, int]:
    """Multiply-accumulates of each switchable layer for one image ``[1, C, H, W]``.

    Attention that is quantized counts its two products only; its projections are layers of their own.
    """
    counted = count_macs(network, image).own
    return {name: counted.get(name, 0) for name in network.layers()}


def bops_cost(network: QuantizableNetwork, image: Tensor) -> Cost:
    """Bit operations per image of the layers that switch, as ``measure.cost`` counts them."""
    counts, layers = macs(network, image), network.layers()
    return Cost(
        "bops",
        "bit operations per image",
        lambda name, mode: bit_operations(layers[name], counts[name], mode),
    )


def bytes_cost(network: QuantizableNetwork) -> Cost:
    """Bytes of the quantized layers' packed weights; norms and biases, always the same, are left out."""
    sizes = _weights(network)
    return Cost("bytes", "bytes of weights", lambda name, mode: sizes[name] * mode.weight / 8)


def _weights(network: QuantizableNetwork) -> dict[str, int]:
    layers = network.layers().items()
    return {n: m.float_weight().numel() if isinstance(m, QuantLayer) else 0 for n, m in layers}


def weight_bits_cost(network: QuantizableNetwork, free: Collection[str]) -> Cost:
    """Mean bits of a weight in the layers ``free``; fixed layers are left out, so that mode 4 has 4."""
    sizes = {name: size for name, size in _weights(network).items() if name in free}
    return _mean(sizes, "weight_bits", "mean bits of a weight", lambda mode: mode.weight)


def activation_bits_cost(network: QuantizableNetwork, free: Collection[str], image: Any) -> Cost:
    """Mean bits of a value that the layers ``free`` quantize for one input ``[1, C, H, W]``; as above.

    A layer that is called twice quantizes twice; the products of attention quantize both of their operands.
    """
    layers, counts = network.layers(), dict.fromkeys(free, 0)
    inside = {
        f"{name} {key}": quantizer
        for name in free
        for key, quantizer in layers[name].named_modules()
        if key == "input_quantizer" or (key.startswith("operands.") and key.count(".") == 1)
    }

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts[name.partition(" ")[0]] += inputs[0][:1].numel()

    with watching(inside, note, before=True), evaluating(network), network.at_bits(network.modes[0]):
        network_inputs(network.model, image)(network)
    return _mean(counts, "activation_bits", "mean bits of an activation", lambda mode: mode.activation)


def _mean(counts: Mapping[str, int], name: str, unit: str, bits: Callable[[BitMode], int]) -> Cost:
    total = sum(counts.values())
    if not total:
        raise ValueError(f"{name} cannot be limited: no layer that can be chosen has any")
    return Cost(name, unit, lambda layer, mode: counts.get(layer, 0) * bits(mode) / total)


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
