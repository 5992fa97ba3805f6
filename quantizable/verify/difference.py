"""How the difference of two networks' values moves through a stage (QEBVerif, section 4).

``difference`` always means second network minus first; usually quantized minus float.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizable.verify.interval import UNIT_ROUNDOFF, Interval, product_interval
from quantizable.verify.stages import Activation, Affine


def affine_difference(
    first: Affine, second: Affine, difference: Interval, x: Interval, fan_in: int
) -> Interval:
    """Interval of ``(A2 x2 + b2) - (A1 x1 + b1)`` as ``A2 (x2 - x1) + (A2 - A1) x1 + (b2 - b1)``.

    Args:
        difference: interval of ``x2 - x1``, ``(batch, *in_shape)``.
        x: interval of ``x1``, ``(batch, *in_shape)``.
    """
    change = second.minus(first)
    carried = product_interval(second, difference, fan_in)
    return carried.plus(product_interval(change, x, fan_in)).plus(Interval(change.offset, change.offset))


def rounding_difference(first: Activation, second: Activation, difference: Interval) -> Interval:
    """Rounding moves each value by at most half of its own step."""
    half = (first.step + second.step) / 2
    return Interval(difference.low - half, difference.high + half)


def clamp_difference(
    first: Activation, second: Activation, x1: Interval, x2: Interval, difference: Interval
) -> Interval:
    """Tightest interval of ``second.clamp(x2) - first.clamp(x1)``.

    Exact over ``{(x1, x2): x1 in its interval, x2 in its interval, x2 - x1 in difference}``.
    The result grows with x2 and falls with x1, so for a given x1 the largest x2 is the worst:
    what is left is piecewise linear in x1 alone, and its extremes are at its breakpoints. This
    one rule replaces the case table of the paper (Table 1) and is never looser.
    """
    # x1 must leave room for some x2 in its interval.
    start = torch.maximum(x1.low, x2.low - difference.high)
    end = torch.maximum(torch.minimum(x1.high, x2.high - difference.low), start)
    shape = start.shape

    def breakpoints(limit: Tensor, shift: Tensor) -> Tensor:
        corners = [start, end, limit - shift, second.low - shift, second.high - shift]
        corners += [torch.full(shape, edge, dtype=torch.float64) for edge in (first.low, first.high)]
        return torch.stack(corners).clamp(start, end)

    y = breakpoints(x2.high, difference.high)
    high = second.clamp(torch.minimum(y + difference.high, x2.high)) - first.clamp(y)
    y = breakpoints(x2.low, difference.low)
    low = second.clamp(torch.maximum(y + difference.low, x2.low)) - first.clamp(y)
    slack = 8 * UNIT_ROUNDOFF * (x1.magnitude + x2.magnitude + difference.magnitude)
    return Interval(low.amin(0) - slack, high.amax(0) + slack)
