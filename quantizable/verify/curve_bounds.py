"""Ranges, linear bounds and differences of smooth functions.

One rule serves all of them. A function is known by its values, its derivative, a bound of its curvature
``|f''|`` and the few points where its slope jumps. It is sampled at 33 points and the jumps. Between two
samples at a distance h, a function is within ``|f''| h^2 / 8`` of its chord and its slope within
``|f''| h / 2`` of the nearer sample's, so what is said of the samples holds, widened by that, everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from quantizable.verify.curves import Curve, Function
from quantizable.verify.interval import UNIT_ROUNDOFF, Interval
from quantizable.verify.relaxation import Line, Relaxation

INTERVALS = 32
# float64 of torch is within a few units in the last place of each function; counted with a wide margin
SLACK = 64 * UNIT_ROUNDOFF


def curve_interval(curve: Curve, x: Interval) -> Interval:
    """Range of the function: at the ends, or in its valley."""
    f = curve.function
    ends = f.value(x.low), f.value(x.high)
    low, high = f.value(x.low.clamp(min=f.valley).minimum(x.high)), torch.maximum(*ends)
    slack = SLACK * (1 + x.magnitude)
    return Interval(low - slack, high + slack)


def relax_curve(curve: Curve, x: Interval) -> Relaxation:
    """Linear bounds over ``x``, with the slope of the chord or of the middle, whichever leaves less area."""
    f = curve.function
    middle, width = (x.low + x.high) / 2, x.high - x.low
    tangent = f.slope(middle)
    rise = (f.value(x.high) - f.value(x.low)) / torch.where(width > 0, width, 1.0)
    best: Relaxation | None = None
    for slope in (torch.where(width > 0, rise, tangent), tangent):
        offset = offsets(f, slope, x)
        found = Relaxation(Line(slope, offset.low), Line(slope, offset.high))
        best = found if best is None else _smaller(best, found, middle)
    assert best is not None
    return best


def _smaller(a: Relaxation, b: Relaxation, middle: Tensor) -> Relaxation:
    """The higher lower line and the lower upper line, as compared in the middle of the interval."""

    def mean(line: Line) -> Tensor:
        return line.slope * middle + line.offset

    def choose(first: Tensor, one: Line, other: Line) -> Line:
        return Line(*(torch.where(first, p, q) for p, q in zip(one, other, strict=True)))

    lower = choose(mean(a.lower) >= mean(b.lower), a.lower, b.lower)
    return Relaxation(lower, choose(mean(a.upper) <= mean(b.upper), a.upper, b.upper))


def offsets(f: Function, slope: Tensor, x: Interval) -> Interval:
    """Interval of ``f(x) - slope x`` over ``x``."""
    low = torch.full_like(x.low, torch.inf)
    high, size = -low, torch.zeros_like(low)
    for point in samples(f, x):
        y = f.value(point)
        low, high = torch.minimum(low, y - slope * point), torch.maximum(high, y - slope * point)
        size = torch.maximum(size, y.abs())
    between = f.curvature * (x.width / INTERVALS) ** 2 / 8 * 1.001
    slack = between + SLACK * (1 + size + (1 + slope.abs()) * x.magnitude)
    return Interval(low - slack, high + slack)


def slopes(f: Function, x: Interval) -> Interval:
    """Interval of ``f'`` over ``x``, on both sides of a jump."""
    low = torch.full_like(x.low, torch.inf)
    high = -low
    for point in samples(f, x, jumps=False):
        s = f.slope(point)
        low, high = torch.minimum(low, s), torch.maximum(high, s)
    for at, left, right in f.jumps:
        inside = (x.low <= at) & (at <= x.high)
        low = torch.where(inside, low.clamp(max=min(left, right)), low)
        high = torch.where(inside, high.clamp(min=max(left, right)), high)
    slack = f.curvature * x.width / INTERVALS / 2 * 1.001 + SLACK * (1 + x.magnitude)
    return Interval(low - slack, high + slack)


def samples(f: Function, x: Interval, jumps: bool = True) -> Iterator[Tensor]:
    """Points of the interval, both ends among them, and where the slope jumps."""
    for i in range(INTERVALS + 1):
        point = x.low + x.width * (i / INTERVALS)
        yield torch.minimum(torch.maximum(point, x.low), x.high) if i < INTERVALS else x.high
    if jumps:
        for at, _, _ in f.jumps:
            yield torch.minimum(x.low.clamp(min=at), x.high)


def curve_difference(curve: Curve, difference: Interval, x1: Interval, x2: Interval) -> Interval:
    """Interval of ``f(x2) - f(x1)``: the difference times a slope between the two (mean value theorem)."""
    hull = Interval(torch.minimum(x1.low, x2.low), torch.maximum(x1.high, x2.high))
    s = slopes(curve.function, hull)
    products = torch.stack([d * slope for d in difference for slope in s])
    slack = 4 * UNIT_ROUNDOFF * difference.magnitude * s.magnitude
    return Interval(products.amin(0) - slack, products.amax(0) + slack)
