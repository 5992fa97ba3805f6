"""What a mode costs: parameters, multiplications, bit operations, bytes and memory, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from quantizable.bits import BitMode, ModeLike
from quantizable.calibrate import evaluating
from quantizable.network import QuantizableNetwork
from quantizable.nn import QuantAttention, QuantLayer


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image in one mode.

    Attributes:
        mode: name of the network's mode.
        layer: its name.
        weight_bits, input_bits: the widths that the layer runs at in that mode.
        parameters: numbers in weight and bias.
        macs: multiply-accumulates.
        bops: bit operations, ``macs * weight_bits * input_bits``.
        weight_bytes: of the weight at its width, scales and bias in float32.
        activation_bytes: of its input at its width and its output in 32 bits, held at the same time.
    """

    mode: str
    layer: str
    weight_bits: int
    input_bits: int
    parameters: int
    macs: int
    bops: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class ModeCost:
    """The sums of one mode; activation memory is that of the layer that needs most.

    Attributes: as of :class:`LayerCost`; ``other_bytes`` are parameters outside the counted layers (float32).
    """

    mode: str
    parameters: int
    macs: int
    bops: int
    weight_bytes: int
    other_bytes: int
    peak_activation_bytes: int


def layer_costs(
    network: QuantizableNetwork, input_size: tuple[int, int, int], modes: Iterable[ModeLike] | None = None
) -> list[LayerCost]:
    """The cost of every layer that multiplies, for one image, mode by mode.

    Args:
        network: calibrated, trained or neither; it is left as it is.
        input_size: channels, height, width.
        modes: by default all.
    """
    chosen = network.modes if modes is None else [network.check_mode(mode) for mode in modes]
    layers = {n: m for n, m in network.model.named_modules() if _multiplies(m)}
    macs, shapes = _measure(network, layers, torch.zeros(1, *input_size))
    costs = []
    for mode in chosen:
        for name, layer in layers.items():
            widths = layer.resolve(mode) if isinstance(layer, QuantLayer) else BitMode(32, 32)
            numbers = sum(p.numel() for key, p in layer.named_parameters() if "quantizer" not in key)
            quantized = layer.get_parameter(_weight_of(layer)).numel()
            scales = _scales(layer, widths.weight)
            given, out = shapes[name]
            costs.append(LayerCost(
                mode.name, name, widths.weight, widths.activation, numbers, macs[name],
                macs[name] * widths.weight * widths.activation,
                -(-quantized * widths.weight // 8) + 4 * (numbers - quantized + scales),
                -(-given * widths.activation // 8) + 4 * out,
            ))  # fmt: skip
    return costs


def mode_costs(network: QuantizableNetwork, layers: list[LayerCost]) -> list[ModeCost]:
    """The sums over layers of each mode, from what :func:`layer_costs` gave."""
    counted = [m for m in network.model.modules() if _multiplies(m)]
    inside = {id(p) for m in counted for p in m.parameters()}
    totals = []
    for mode in dict.fromkeys(cost.mode for cost in layers):
        own = [cost for cost in layers if cost.mode == mode]
        other = sum(
            p.numel() for name, p in network.model.named_parameters()
            if id(p) not in inside and "quantizer" not in name and _of_mode(name, mode)
        )  # fmt: skip
        totals.append(ModeCost(
            mode, sum(c.parameters for c in own) + other, sum(c.macs for c in own), sum(c.bops for c in own),
            sum(c.weight_bytes for c in own), 4 * other, max(c.activation_bytes for c in own),
        ))  # fmt: skip
    return totals


def as_rows(costs: Iterable[LayerCost | ModeCost]) -> list[dict[str, Any]]:
    """The costs as plain dictionaries, for CSV and JSON."""
    return [asdict(cost) for cost in costs]


def _multiplies(module: nn.Module) -> bool:
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | nn.MultiheadAttention
    return isinstance(module, kinds | QuantLayer) and not isinstance(module, QuantAttention)


def _weight_of(layer: nn.Module) -> str:
    return "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"


def _scales(layer: nn.Module, bits: int) -> int:
    """How many step sizes the weight has at a width."""
    if not isinstance(layer, QuantLayer) or bits == 32:
        return 0
    return layer.weight_quantizer.qparams(layer.float_weight(), bits).scale.numel()


def _of_mode(parameter: str, mode: str) -> bool:
    """False for the norms of other modes."""
    _, inside, rest = parameter.partition(".norms.")
    return not inside or rest.split(".")[0] == mode


@torch.no_grad()
def _measure(
    network: QuantizableNetwork, layers: dict[str, nn.Module], image: Tensor
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Multiply-accumulates, and elements of input and output, of each layer, from one float forward pass."""
    shapes: dict[str, tuple[int, int]] = dict.fromkeys(layers, (0, 0))

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            shapes[name] = (inputs[0].numel(), out.numel())

        return hook

    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    counter = FlopCounterMode(display=False)
    try:
        with evaluating(network), _float(network), counter:
            network.model(image)
    finally:
        for hook in hooks:
            hook.remove()
    root = type(network.model).__name__
    flops = counter.get_flop_counts()
    return {name: sum(flops.get(f"{root}.{name}", {}).values()) // 2 for name in layers}, shapes


class _float:
    """All quantizers off for the length of a block, whether or not the network has a float mode."""

    def __init__(self, network: QuantizableNetwork) -> None:
        self.quantizers = list(network.quantizers().values())

    def __enter__(self) -> None:
        self.before = [quantizer.bits for quantizer in self.quantizers]
        for quantizer in self.quantizers:
            quantizer.set_bits(32)

    def __exit__(self, *_: object) -> None:
        for quantizer, bits in zip(self.quantizers, self.before, strict=True):
            quantizer.set_bits(bits)
