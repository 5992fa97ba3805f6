"""A neuron that rounds to few codes, as a staircase with a binary variable for each step.

Step ``i`` is climbed where ``x`` is at or above its edge, and only behind the steps below it, so the code is
the lowest one plus the number of climbed steps: the incremental formulation of a piecewise linear function
(Markowitz and Manne, 1957; Vielma, SIAM Review 57(1), 2015). With whole numbers it is exact, clamps included;
with real ones it is the convex hull of the staircase, which is never wider than half a step of free error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizable.verify.interval import Interval
from quantizable.verify.program import FEW_ROUNDINGS, Expression, Program, scatter, select
from quantizable.verify.stages import Activation

MOST_STEPS = 16  # of a neuron with more, half a step is little beside its range


def has_few_steps(stage: Activation, values: Interval) -> Tensor:
    """Which neurons are staircases of one to :data:`MOST_STEPS` steps.

    Args:
        values: range of the rounded value before the clamp, ``(n,)``.
    """
    if stage.step == 0 or not stage.snap:
        return torch.zeros_like(values.low, dtype=torch.bool)
    steps = (stage.clamp(values.high) - stage.clamp(values.low)) / stage.step
    return (steps > 0.5) & (steps < MOST_STEPS + 0.5)


def add_staircase(
    program: Program, stage: Activation, x: Expression, inner: Interval, values: Interval, whole: bool
) -> Expression:
    """``clamp(round(x))`` of neurons with few steps, ``(n,)``.

    Args:
        x: their values before the rounding.
        inner: bounds of ``x``.
        values: range of the rounded value before the clamp.
        whole: binary variables; else numbers from 0 to 1.
    """
    lowest, highest = stage.clamp(values.low), stage.clamp(values.high)
    count = ((highest - lowest) / stage.step).round()
    first, last = lowest + stage.step / 2, highest - stage.step / 2  # edges
    low, high = torch.minimum(inner.low, first), torch.maximum(inner.high, last)
    step = torch.full_like(low, stage.step)
    zero = torch.zeros_like(low)
    code = above = below = Expression(zero.new_zeros(program.columns, len(zero)), zero, zero)
    previous: tuple[Tensor, Expression] | None = None
    for i in range(int(count.max())):
        here = count > i
        climbed = program.add_columns(zero[here], zero[here] + 1, integer=whole)
        if previous is not None:
            there, lower = previous
            program.add_rows([(1.0, select(lower, here[there])), (-1.0, climbed)], zero[here])
        previous = here, climbed
        # x is at least `low`, or the first edge, or the second; at most the first edge, the second, or `high`
        up_to = torch.where(count == i + 1, high - last, step)
        parts = (step, first - low if i == 0 else step, up_to)
        code, above, below = (
            scatter(total, here, times(climbed, part[here]), program.columns, add=True)
            for total, part in zip((code, above, below), parts, strict=True)
        )
    program.add_rows([(1.0, x), (-1.0, above)], low)
    program.add_rows([(-1.0, x), (1.0, below)], -first)
    size = lowest.abs() + highest.abs() + stage.step
    return Expression(code.matrix, code.constant + lowest, code.error + FEW_ROUNDINGS * size)


def times(x: Expression, factor: Tensor) -> Expression:
    """Each expression times its factor, ``(n,)``."""
    return Expression(x.matrix * factor, x.constant * factor, x.error * factor.abs())
