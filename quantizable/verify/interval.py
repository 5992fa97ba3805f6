"""Interval arithmetic in float64 that accounts for its own rounding.

Stated epsilon: a sum of ``n`` products computed in float64 in any order is within
``gamma(n) * sum |a_i b_i|`` of the real result, with ``gamma(n) = n u / (1 - n u)`` and
``u = 2**-53`` (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1).
Every interval here is widened by that much, so it holds in real arithmetic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.verify.graph import apply
from quantizable.verify.stages import Activation, Affine

UNIT_ROUNDOFF = 2.0**-53
GRID_LIMIT = 2.0**20


def gamma(terms: int) -> float:
    """Relative error bound of a float64 sum of ``terms`` products (Higham 3.1).

    Four more roundings are counted, for the few operations around a sum.
    """
    n = (terms + 4) * UNIT_ROUNDOFF
    return n / (1 - n)


class Interval(NamedTuple):
    """Elementwise ``low <= value <= high``; two tensors ``(batch, *shape)``, float64."""

    low: Tensor
    high: Tensor

    @property
    def width(self) -> Tensor:
        return self.high - self.low

    @property
    def magnitude(self) -> Tensor:
        """Largest absolute value."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def __and__(self, other: Interval) -> Interval:
        """Intersection: what two sound intervals imply together."""
        return Interval(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))

    def minus(self, other: Interval) -> Interval:
        """Interval of ``a - b`` for independent ``a``, ``b``, rounded outwards."""
        return self.plus(Interval(-other.high, -other.low))

    def plus(self, other: Interval) -> Interval:
        """Interval of ``a + b``, rounded outwards."""
        return Interval(-add_up(-self.low, -other.low), add_up(self.high, other.high))

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        """Elementwise membership, with ``tolerance`` for the rounding of ``x`` itself."""
        return (x >= self.low - tolerance) & (x <= self.high + tolerance)


def down(x: Tensor) -> Tensor:
    """The next float64 below."""
    return torch.nextafter(x, torch.full_like(x, -torch.inf))


def up(x: Tensor) -> Tensor:
    """The next float64 above."""
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def add_up(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` rounded up: unchanged where float64 is exact (Knuth's TwoSum gives the error)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return torch.where(error > 0, up(total), total)


def affine_interval(stage: Affine, x: Interval, fan_in: int) -> Interval:
    """Tightest interval of ``A x + bias`` over ``x``, in midpoint-radius form.

    Args:
        fan_in: an upper bound of the number of products in one output.
    """
    product = product_interval(stage, x, fan_in)
    return product.plus(Interval(stage.offset, stage.offset))


def product_interval(stage: Affine, x: Interval, fan_in: int) -> Interval:
    """Tightest interval of ``A x``, without the bias."""
    middle, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    absolute = stage.absolute()
    center, spread = stage.multiply(middle), absolute.multiply(radius)
    size = absolute.multiply(x.magnitude)
    exact = on_grid(stage.entries) and on_grid(middle) and on_grid(radius)
    slack = 0.0 if exact and float(size.max()) < GRID_LIMIT else 2 * gamma(fan_in) * size
    return Interval(center - spread - slack, center + spread + slack)


def on_grid(x: Tensor) -> bool:
    """Whether all numbers are multiples of ``2**-16``.

    Products of two such numbers are multiples of ``2**-32``; their sums up to ``2**20`` fit the
    53 bits of float64, so fixed-point networks are bounded without any rounding error.
    """
    scaled = x * 2.0**16
    return bool((scaled == scaled.round()).all())


def magnitude(stage: Affine, x: Interval) -> Tensor:
    """``|A| max|x| + |bias|``: the scale of the rounding error of an affine stage."""
    return apply(stage.absolute(), x.magnitude)  # type: ignore[arg-type]


def activation_interval(stage: Activation, x: Interval) -> Interval:
    """Range of ``clamp(round(x))``: both are monotone, so the end points map to end points."""
    return Interval(*(stage.clamp(limit) for limit in rounded(stage, x)))


def rounded(stage: Activation, x: Interval) -> Interval:
    """Range of the rounded value before the clamp.

    The result is a grid point, so the lower bound may be rounded up to one and the upper one
    down. Where ties go to the even code both directions are kept: a bound says too little about
    the code to know which one it is.
    """
    if stage.step == 0:
        return x
    if not stage.snap:
        return Interval(down(x.low - stage.step / 2), up(x.high + stage.step / 2))
    low, high = codes_of(stage, x)
    return Interval(
        stage.value((low - 0.5).ceil() if stage.half_even else (low + 0.5).floor()),
        stage.value((high + 0.5).floor()),
    )


def codes_of(stage: Activation, x: Interval) -> Interval:
    """``x / step + zero_point`` before rounding, outwards; exact if step is a power of two."""
    if math.frexp(stage.step)[0] == 0.5 and stage.zero_point == 0:
        return Interval(x.low / stage.step, x.high / stage.step)
    zero = torch.full_like(x.low, stage.zero_point)
    return Interval(down(x.low / stage.step), up(x.high / stage.step)).plus(Interval(zero, zero))
