"""What the arithmetic of a mode takes in energy: an estimate from published figures, not a measurement."""

from __future__ import annotations

from collections.abc import Iterable

from quantizable.measure.cost import LayerCost

# picojoules in 45 nm (Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9)
MULTIPLY_8, ADD_32 = 0.2, 0.1
MULTIPLY_FLOAT, ADD_FLOAT = 3.7, 0.9


def mac_picojoules(weight_bits: int, input_bits: int) -> float:
    """One multiply-accumulate: a product of integers, added in 32 bits; with an operand of 32 bits, in float.

    An integer multiplier's energy grows with the product of the widths: from 8 to 32 bits Horowitz gives
    0.2 and 3.1 picojoules, a factor of 15.5, where the widths say 16.
    """
    if 32 in (weight_bits, input_bits):
        return MULTIPLY_FLOAT + ADD_FLOAT
    return MULTIPLY_8 * weight_bits * input_bits / 64 + ADD_32


def microjoules(layers: Iterable[LayerCost]) -> dict[str, float]:
    """Energy of the multiply-accumulates of one image, by mode; memory is not in it.

    Args:
        layers: what :func:`quantizable.measure.cost.layer_costs` gave.
    """
    sums: dict[str, float] = {}
    for layer in layers:
        own = layer.macs * mac_picojoules(layer.weight_bits, layer.input_bits) / 1e6
        sums[layer.mode] = sums.get(layer.mode, 0.0) + own
    return sums
