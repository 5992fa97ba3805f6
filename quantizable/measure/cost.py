"""What a mode costs: parameters, multiplications, bit operations, bytes and memory, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from quantizable.bits import BitMode, ModeLike
from quantizable.measure.macs import count_macs
from quantizable.network import QuantizableNetwork
from quantizable.nn import QuantAttention, QuantLayer
from quantizable.nn.additions import Additions
from quantizable.nn.layer_calls import Call
from quantizable.nn.operands import QuantOperands
from quantizable.nn.recurrent_products import Product
from quantizable.storage.signature import example_inputs

FLOAT = BitMode(32, 32)


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image in one mode.

    Attributes:
        mode: name of the network's mode, or of its assignment.
        layer: its name; ``NAME.products`` are the two products of a torch ``MultiheadAttention``.
        weight_bits, input_bits: the widths that the layer runs at in that mode; of attention products, and of
            residual additions, those of their two operands.
        parameters: numbers in weight and bias.
        macs: multiply-accumulates.
        bops: bit operations, ``macs * weight_bits * input_bits``.
        weight_bytes: of the weight at its width, scales and bias in float32.
        activation_bytes: of its input at its width and its output in 32 bits, held at the same time (of a
            layer that is used more than once: the use that needs most; of attention: the product that needs
            most, with its operands). 0 for products that belong to no layer of their own. Of a residual
            addition: the operand that is kept until it is added.
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

    A parameter that several layers share counts once among ``parameters``, and with each of them among
    ``weight_bytes``: each has integers of its own.

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
    network: QuantizableNetwork,
    input_size: tuple[int, ...] | None = None,
    modes: Iterable[ModeLike] | None = None,
) -> list[LayerCost]:
    """The cost of everything that multiplies, for one image, mode by mode.

    Attention products that are not quantized have rows too, at 32 bits; residual additions only where they
    are on integer grids.

    Args:
        network: calibrated, trained or neither; it is left as it is.
        input_size: channels, height, width, or the shape of an input of another kind; None: as the
            network's ``info`` says.
        modes: modes, and names of assignments that it holds; by default all of both.
    """
    asked: list[ModeLike] = [*network.assignments, *network.modes] if modes is None else [*modes]
    asked_for = [network.check_held(mode) for mode in asked]
    device = next((one.device for one in network.parameters()), torch.device("cpu"))
    macs, calls, _ = count_macs(network, example_inputs(network, 1, input_size).to(device))
    parts = dict(network.model.named_modules())
    layers = {name: part for name, part in parts.items() if _has_weight(part)}
    products = [name for name in macs if name not in layers]  # attention, quantized or not
    additions = network.additions()
    names = [*layers, *products, *additions]
    rows = []
    for held in asked_for:
        mode = held.name
        of = {n: held if isinstance(held, BitMode) else BitMode.parse(held.get(n, FLOAT)) for n in names}
        rows += [_weighted(mode, of[n], n, part, macs.get(n, 0), calls[n]) for n, part in layers.items()]
        rows += [_product(mode, of[n], n, parts.get(n), macs[n], calls.get(n, [])) for n in products]
        rows += [_sum(mode, of[n], n, part, calls[n]) for n, part in additions.items()]
    return rows


def bit_operations(part: nn.Module | None, macs: int, mode: BitMode) -> int:
    """Multiply-accumulates times the widths of both operands (ARQ, 2024) of a part that runs in ``mode``.

    Both operands of an attention product are activations.
    """
    return macs * (mode.activation if isinstance(part, QuantOperands) else mode.weight) * mode.activation


def _weighted(
    name: str, mode: BitMode, layer_name: str, layer: nn.Module, macs: int, calls: list[Call]
) -> LayerCost:
    widths = layer.resolve(mode) if isinstance(layer, QuantLayer) else FLOAT
    # a layer inside (the output projection of attention) has a row of its own
    numbers = sum(p.numel() for p in _parameters_of(layer))
    quantized = layer.get_parameter(_weight_of(layer)).numel()
    scales = _scales(layer, widths.weight)
    return LayerCost(
        name, layer_name, widths.weight, widths.activation, numbers, macs,
        bit_operations(layer, macs, widths),
        _bytes(quantized, widths.weight) + 4 * (numbers - quantized + scales),
        max((_bytes(c.given.numel(), widths.activation) + 4 * c.out.numel() for c in calls), default=0),
    )  # fmt: skip


def _product(
    name: str, mode: BitMode, layer: str, part: nn.Module | None, macs: int, calls: list[Call]
) -> LayerCost:
    quantized = isinstance(part, QuantOperands)
    widths = part.resolve(mode) if isinstance(part, QuantOperands) else FLOAT
    memory = 0
    if isinstance(part, QuantAttention):
        for batch, tokens, _ in (call.given for call in calls):
            operand, scores = batch * tokens * part.attn_dim, batch * part.num_heads * tokens * tokens
            first = _bytes(2 * operand, widths.activation) + 4 * scores  # Q K^T
            second = _bytes(scores + operand, widths.activation) + 4 * operand  # A V
            memory = max(memory, first, second)
    first_bits = widths.activation if quantized else widths.weight
    return LayerCost(
        name, layer, first_bits, widths.activation, 0, macs, bit_operations(part, macs, widths), 0, memory
    )


def _sum(name: str, mode: BitMode, layer: str, additions: Additions, calls: list[Call]) -> LayerCost:
    bits = additions.width(mode)
    memory = max((_bytes(call.out.numel(), bits) for call in calls), default=0)
    return LayerCost(name, layer, bits, bits, 0, 0, 0, 0, memory)


def _bytes(numbers: int, bits: int) -> int:
    return -(-numbers * bits // 8)


def mode_costs(network: QuantizableNetwork, layers: list[LayerCost]) -> list[ModeCost]:
    """The sums over layers of each mode, from what :func:`layer_costs` gave."""
    counted = [m for m in network.model.modules() if _has_weight(m)]
    inside = {id(p): p.numel() for m in counted for p in _parameters_of(m)}
    of_quantizers = {id(p) for quantizer in network.quantizers().values() for p in quantizer.parameters()}
    numbers = sum(inside.values())  # layers may share a parameter
    totals = []
    for mode in dict.fromkeys(cost.mode for cost in layers):
        own = [cost for cost in layers if cost.mode == mode]
        other = sum(
            p.numel() for name, p in network.model.named_parameters()
            if id(p) not in {*inside, *of_quantizers} and _of_mode(name, mode)
        )  # fmt: skip
        totals.append(ModeCost(
            mode, numbers + other, sum(c.macs for c in own), sum(c.bops for c in own),
            sum(c.weight_bytes for c in own), 4 * other, max(c.activation_bytes for c in own),
        ))  # fmt: skip
    return totals


def as_rows(costs: Iterable[LayerCost | ModeCost]) -> list[dict[str, Any]]:
    """The costs as plain dictionaries, for CSV and JSON."""
    return [asdict(cost) for cost in costs]


def _has_weight(module: nn.Module) -> bool:
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | nn.MultiheadAttention | Product
    return isinstance(module, kinds | QuantLayer) and not isinstance(module, QuantOperands)


def _parameters_of(layer: nn.Module) -> list[nn.Parameter]:
    """Its weight and bias, without those of layers inside; a product's belong to its recurrent layer."""
    if isinstance(layer, Product):
        return [p for p in (layer.weight, layer.bias) if isinstance(p, nn.Parameter)]
    return list(layer.parameters(recurse=False))


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
