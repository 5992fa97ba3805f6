"""Interval arithmetic in float64 that accounts for its own rounding.

Stated epsilon: a sum of ``n`` products computed in float64 in any order is within
``gamma(n) * sum |a_i b_i|`` of the real result, with ``gamma(n) = n u / (1 - n u)`` and
``u = 2**-53`` (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1).
Every interval here is widened by that much, so it holds in real arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.verify.graph import AFFINE, apply
from quantizable.verify.stages import Activation, Affine, Stage

UNIT_ROUNDOFF = 2.0**-53


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
        return Interval(
            torch.maximum(self.low, other.low), torch.minimum(self.high, other.high)
        )

    def minus(self, other: Interval) -> Interval:
        """Interval of ``a - b`` for independent ``a``, ``b``, rounded outwards."""
        return Interval(
            down(self.low - other.high), up(self.high - other.low)
        )

    def plus(self, other: Interval) -> Interval:
        """Interval of ``a + b``, rounded outwards."""
        return Interval(down(self.low + other.low), up(self.high + other.high))

    def contains(self, x: Tensor, tolerance: float = 0.0) -> Tensor:
        """Elementwise membership, with ``tolerance`` for the rounding of ``x`` itself."""
        return (x >= self.low - tolerance) & (x <= self.high + tolerance)


def down(x: Tensor) -> Tensor:
    """The next float64 below."""
    return torch.nextafter(x, torch.full_like(x, -torch.inf))


def up(x: Tensor) -> Tensor:
    """The next float64 above."""
    return torch.nextafter(x, torch.full_like(x, torch.inf))


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
    slack = 2 * gamma(fan_in) * absolute.multiply(x.magnitude)
    return Interval(center - spread - slack, center + spread + slack)


def magnitude(stage: Affine, x: Interval) -> Tensor:
    """``|A| max|x| + |bias|``: the scale of the rounding error of an affine stage."""
    return apply(stage.absolute(), x.magnitude)  # type: ignore[arg-type]


def activation_interval(stage: Activation, x: Interval) -> Interval:
    """Range of ``clamp(round(x))``: both are monotone, so the end points map to end points."""
    return Interval(*(stage.clamp(limit) for limit in rounded(stage, x)))


def rounded(stage: Activation, x: Interval) -> Interval:
    """Range of the rounded value before the clamp.

    The result is a grid point, so the lower bound may be rounded up to one and the upper one
    down: ``ceil(low - 1/2)``, ``floor(high + 1/2)``. Both directions of a tie are inside.
    """
    if stage.step == 0:
        return x
    if not stage.snap:
        return Interval(down(x.low - stage.step / 2), up(x.high + stage.step / 2))
    low, high = (down(limit / stage.step + stage.zero_point) for limit in x)
    return Interval(
        stage.value((low - 0.5).ceil()), stage.value((up(up(high)) + 0.5).floor())
    )


def stage_interval(stage: Stage, *inputs: Interval, fan_in: int) -> Interval:
    """Interval of any stage's result from the intervals of its inputs."""
    if isinstance(stage, AFFINE):
        return affine_interval(stage, inputs[0], fan_in)
    if isinstance(stage, Activation):
        return activation_interval(stage, inputs[0])
    if len(inputs) == 2:
        return inputs[0].plus(inputs[1])
    return Interval(apply(stage, inputs[0].low), apply(stage, inputs[0].high))
