"""Intervals and differences through any stage: which rule serves which stage."""

from __future__ import annotations

from quantizable.verify.curve_bounds import curve_difference, curve_interval
from quantizable.verify.curves import Curve
from quantizable.verify.difference import affine_difference, clamp_difference, rounding_difference
from quantizable.verify.graph import AFFINE, apply
from quantizable.verify.interval import Interval, activation_interval, affine_interval, rounded
from quantizable.verify.pool_bounds import pool_difference
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.stages import Activation, Add, Stage


def stage_interval(stage: Stage, *inputs: Interval, fan_in: int) -> Interval:
    """Interval of any stage's result from the intervals of its inputs."""
    if isinstance(stage, AFFINE):
        return affine_interval(stage, inputs[0], fan_in)
    if isinstance(stage, Activation):
        return activation_interval(stage, inputs[0])
    if isinstance(stage, Curve):
        return curve_interval(stage, inputs[0])
    if isinstance(stage, Add):
        return inputs[0].plus(inputs[1])
    # what is left is exact and monotone: max pooling, and stages that only move values
    return Interval(apply(stage, *(x.low for x in inputs)), apply(stage, *(x.high for x in inputs)))


def stage_difference(
    stages: tuple[Stage, Stage],
    difference: list[Interval],
    own: tuple[Interval, Interval],
    fan_in: int,
    *,
    both_ways: bool,
) -> Interval:
    """Interval of the second network's result minus the first's.

    Args:
        stages: the first and the second network's stage, of one kind.
        difference: of each input.
        own: intervals of the two networks' first input.
        fan_in: an upper bound of the number of products in one output.
        both_ways: also look from the second network to the first, and at each network's own rounded values:
            tighter, and not part of the published analysis.
    """
    first, second = stages
    x1, x2 = own
    if isinstance(first, Activation) and isinstance(second, Activation):
        r1, r2 = rounded(first, x1), rounded(second, x2)
        moved = rounding_difference(first, second, difference[0])
        return clamp_difference(first, second, r1, r2, moved & r2.minus(r1) if both_ways else moved)
    if isinstance(first, AFFINE) and isinstance(second, AFFINE):
        found = affine_difference(first, second, difference[0], x1, fan_in)
        if both_ways:
            turned = Interval(-difference[0].high, -difference[0].low)
            mirror = affine_difference(second, first, turned, x2, fan_in)
            found = found & Interval(-mirror.high, -mirror.low)
        return found
    if isinstance(first, Curve):
        return curve_difference(first, difference[0], x1, x2)
    if isinstance(first, MaxPool2d):
        return pool_difference(first, difference[0], x1, x2)
    return stage_interval(first, *difference, fan_in=fan_in)
