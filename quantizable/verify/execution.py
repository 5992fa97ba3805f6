"""What a run of a network may differ from real arithmetic by, stage by stage.

Bounds hold for a network as a function of real numbers. A program that runs it rounds: it adds in its own
order, and where a value lies within such an error of a tie, a code may come out one higher or lower. For an
execution each stage gets two errors: one of the value that is rounded to a grid, which turns into both codes
where it reaches a tie, and one of the stage's result. Bounds that are widened by them hold for every run of
that kind.

==========  ======================================================================================
execution   what is covered
==========  ======================================================================================
real        real arithmetic, no rounding
float32     float32 in round-to-nearest, sums in any order, with or without fused multiply-add; norms apart or
            folded into the layer before them (torch on a processor, and on a GPU without TF32)
integers    the export: sums of products of codes are exact, scale and bias are float32; what has no codes
            runs in float32
==========  ======================================================================================

A sum of ``n`` products is within ``gamma(n) * sum |a_i b_i|`` of the real one (Higham 3.1), with the unit
roundoff ``2**-24`` here. Winograd and Fourier convolutions, TF32, bfloat16, kernels that saturate or round
the bias, and residual additions of integers are not covered.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from quantizable.verify.curves import Curve
from quantizable.verify.graph import AFFINE
from quantizable.verify.interval import Interval, magnitude
from quantizable.verify.stages import Activation, Add, Conv2d, Linear, Stage

Execution = Literal["real", "float32", "integers"]
EXECUTIONS: tuple[str, ...] = get_args(Execution)
UNIT = 2.0**-24
SMALLEST = 2.0**-126  # below, float32 is not relative any more, and some programs give 0
LARGEST = 2.0**127  # beyond, float32 may overflow, and nothing is known
DEQUANTIZING = 3  # roundings of (code - zero point) * scale, counted where the value is read
FEW = 8  # scale, bias, norm and conversion of an affine stage
OF_FUNCTIONS = 64  # of a smooth function and the operations that it is made of


def check_execution(execution: str) -> None:
    """Raise ``ValueError`` for an unknown name."""
    if execution not in EXECUTIONS:
        raise ValueError(f"unknown execution {execution!r}; allowed are {', '.join(EXECUTIONS)}")


def relative(roundings: int) -> float:
    """Bound of the relative error of so many roundings in a row."""
    return 1.001 * roundings * UNIT / (1 - roundings * UNIT)


def errors_before(stage: Stage, x: Interval, execution: str) -> Tensor | None:
    """Error of the value that an activation rounds to its grid, as it divides by the step."""
    if execution == "real" or not isinstance(stage, Activation) or stage.step == 0:
        return None
    size = x.magnitude + abs(stage.zero_point) * stage.step
    return _finite(relative(4 + DEQUANTIZING) * size + stage.step * SMALLEST)


def errors_after(
    stage: Stage, inputs: list[Interval], result: Interval, reads: Stage | None, execution: str
) -> Tensor | None:
    """Error of a stage's result.

    Args:
        inputs: of the stage, as this execution may give them.
        result: of the stage in real arithmetic on these inputs.
        reads: the stage that its first input comes from, as far as it matters; None for the input.
    """
    if execution == "real":
        return None
    if isinstance(stage, AFFINE):
        terms = stage.weight[0].numel() if isinstance(stage, Linear | Conv2d) else 1
        size = magnitude(stage, inputs[0])
        if (
            execution == "integers"
            and isinstance(stage, Linear | Conv2d)
            and stage.codes
            and _gives_codes(reads)
        ):
            # The sum is exact; what is verified has weights that were rounded to float32 one by one.
            exact = result.magnitude + 2 * stage.absolute().offset
            error = torch.minimum(relative(FEW) * exact + relative(1) * size, relative(FEW + 1) * size)
            error = error + SMALLEST
        else:
            error = relative(terms + FEW + DEQUANTIZING) * size + terms * SMALLEST
    elif isinstance(stage, Add):
        error = relative(1 + DEQUANTIZING) * (inputs[0].magnitude + inputs[1].magnitude)
    elif isinstance(stage, Curve):
        error = OF_FUNCTIONS * UNIT * (1 + inputs[0].magnitude)
    else:
        return None  # a clamp, max pooling and moving values are exact
    return _finite(error)


def widened(x: Interval, error: Tensor | None) -> Interval:
    """An interval of values that may be off by an error."""
    return x if error is None else Interval(x.low - error, x.high + error)


def _gives_codes(stage: Stage | None) -> bool:
    """Whether a stage's values are whole multiples of a step: an engine multiplies their codes."""
    return isinstance(stage, Activation) and stage.step > 0 and float(stage.zero_point).is_integer()


def _finite(error: Tensor) -> Tensor:
    return torch.where(error < LARGEST * UNIT, error, torch.inf)
