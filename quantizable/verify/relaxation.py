"""Linear bounds of an activation over an interval (DeepPoly, Singh et al., POPL 2019).

``clamp(round(x), low, high)`` is bounded in three steps: rounding moves ``x`` by at most half
a step; ``max(., low)`` is a ReLU; ``min(., high)`` is a mirrored ReLU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.verify.interval import Interval, down, rounded, up
from quantizable.verify.stages import INFINITY, Activation


class Line(NamedTuple):
    """``slope * x + offset``, elementwise ``(batch, *shape)``; slopes are in [0, 1]."""

    slope: Tensor
    offset: Tensor

    def at(self, inner: Line) -> Line:
        """This line applied to another one (slopes are not negative, so bounds stay bounds)."""
        return Line(self.slope * inner.slope, self.slope * inner.offset + self.offset)


class Relaxation(NamedTuple):
    """``lower(x) <= activation(x) <= upper(x)`` for every x of the interval."""

    lower: Line
    upper: Line


def relax_relu(x: Interval) -> Relaxation:
    """DeepPoly's bounds of ``max(x, 0)``: the chord above, slope 0 or 1 below.

    The lower slope is 0 if ``low + high <= 0`` and 1 otherwise (the smaller area).
    """
    zero, one = torch.zeros_like(x.low), torch.ones_like(x.low)
    active, dead = x.low >= 0, x.high <= 0
    crossing = ~active & ~dead
    width = torch.where(crossing, x.high - x.low, one)
    slope = torch.where(crossing, x.high / width, torch.where(active, one, zero))
    # At x = high the chord must reach high, at x = low it must reach 0: rounding of the slope
    # cannot push it below either end.
    offset = torch.maximum(up(x.high - down(slope * x.high)), up(-down(slope * x.low)))
    upper = Line(slope, torch.where(crossing, offset, zero))
    lower_slope = torch.where(active | (crossing & (x.low + x.high > 0)), one, zero)
    return Relaxation(Line(lower_slope, zero), upper)


def relax(stage: Activation, x: Interval, tight: bool = False) -> Relaxation:
    """Linear bounds of ``clamp(round(x), low, high)`` over ``x``.

    Args:
        x: interval of the value before the activation, ``(batch, *shape)``.
        tight: where rounding leaves a single grid point, use that constant instead of
            ``x +- step/2`` (not part of the published analysis).
    """
    zero, one = torch.zeros_like(x.low), torch.ones_like(x.low)
    value = rounded(stage, x)
    lower, upper = Line(one, zero - stage.step / 2), Line(one, zero + stage.step / 2)
    if stage.low > -INFINITY:  # max(v, low) = low + relu(v - low)
        relu = relax_relu(Interval(value.low - stage.low, value.high - stage.low))
        lower, upper = (
            Line(line.slope, line.offset + (1 - line.slope) * stage.low).at(inner)
            for line, inner in zip(relu, (lower, upper), strict=True)
        )
        value = Interval(value.low.clamp(min=stage.low), value.high.clamp(min=stage.low))
    if stage.high < INFINITY:  # min(v, high) = high - relu(high - v)
        relu = relax_relu(Interval(stage.high - value.high, stage.high - value.low))
        upper_cut, lower_cut = (
            Line(line.slope, (1 - line.slope) * stage.high - line.offset) for line in relu
        )
        lower, upper = lower_cut.at(lower), upper_cut.at(upper)
        value = Interval(value.low.clamp(max=stage.high), value.high.clamp(max=stage.high))
    if tight and stage.step > 0:
        constant = value.low == value.high
        lower = Line(
            torch.where(constant, zero, lower.slope),
            torch.where(constant, value.low, lower.offset),
        )
        upper = Line(
            torch.where(constant, zero, upper.slope),
            torch.where(constant, value.high, upper.offset),
        )
    return Relaxation(lower, upper)
