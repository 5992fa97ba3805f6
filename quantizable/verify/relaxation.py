"""Linear bounds of an activation over an interval (DeepPoly, Singh et al., POPL 2019).

``clamp(round(x), low, high)`` is bounded in two steps: rounding moves ``x`` by at most half a step, and
the clamp of the rounded value has two lines.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.verify.interval import Interval, down, rounded, up
from quantizable.verify.stages import Activation


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


def relax_clamp(v: Interval, low: float, high: float, published_step: float | None = None) -> Relaxation:
    """Linear bounds of ``clamp(v, low, high)``: a ReLU has ``low = 0`` and ``high = inf``.

    Where ``v`` crosses ``low``, the upper line is the chord up to where the function ends to grow; where it
    crosses ``high``, that line or the constant ``high``, whichever leaves less area. The lower line is the
    same seen from below, as in DeepPoly.

    Args:
        published_step: choose the constant where QEBVerif does: from the middle of ``v`` at one grid step
            below ``high`` on. All widths they published come out only so.
    """
    upper = _upper_line(v, low, high, published_step)
    mirrored = _upper_line(Interval(-v.high, -v.low), -high, -low, None)
    return Relaxation(Line(mirrored.slope, -mirrored.offset), upper)


def _upper_line(v: Interval, low: float, high: float, published_step: float | None) -> Line:
    zero, one = torch.zeros_like(v.low), torch.ones_like(v.low)
    end = v.high.clamp(low, high)  # the largest value; the function reaches it at ``end`` too
    start = v.low.clamp(low, high)
    chord = (v.low < low) & (v.high > low)
    width = torch.where(chord, end - v.low, one)
    slope = torch.where(chord, (end - start) / width, one)
    # The chord must reach ``end`` at its end and ``low`` at its start: rounding of the slope cannot
    # push it below either.
    reach = torch.maximum(up(end - down(slope * end)), up(start - down(slope * v.low)))
    offset = torch.where(chord, reach, zero)
    middle = (v.low + v.high) / 2
    least_area = published_step is None
    better = end <= slope * middle + offset if least_area else middle >= high - (published_step or 0.0)
    constant = (v.high > high) & better | (v.high <= low)
    return Line(torch.where(constant, zero, slope), torch.where(constant, end, offset))


def relax(stage: Activation, x: Interval, tight: bool = False) -> Relaxation:
    """Linear bounds of ``clamp(round(x), low, high)`` over ``x``.

    Args:
        x: interval of the value before the activation, ``(batch, *shape)``.
        tight: the lines with the least area, and where rounding leaves a single grid point, that constant
            instead of ``x +- step/2``; else those of the published analysis.
    """
    zero, one = torch.zeros_like(x.low), torch.ones_like(x.low)
    value = rounded(stage, x)
    lines = relax_clamp(value, stage.low, stage.high, None if tight else stage.step)
    lower = lines.lower.at(Line(one, zero - stage.step / 2))
    upper = lines.upper.at(Line(one, zero + stage.step / 2))
    if tight and stage.step > 0:
        value = Interval(*(stage.clamp(limit) for limit in value))
        constant = value.low == value.high
        lower, upper = (
            Line(torch.where(constant, zero, line.slope), torch.where(constant, limit, line.offset))
            for line, limit in zip((lower, upper), value, strict=True)
        )
    return Relaxation(lower, upper)
