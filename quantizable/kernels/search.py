"""The loops of ``search.cpp`` on tensors: the step size of each row with the least error."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantizable.kernels.calls import pointers
from quantizable.kernels.loops import loops_for

LANES = 32  # numbers that a loop takes at once


def least_error(
    rows: Tensor, shares: Tensor, around: Tensor, factors: tuple[Tensor, Tensor], bounds: tuple[int, int]
) -> Tensor | None:
    """What ``step_size.best_multiple`` finds of the error ``|x - fake_quantize(x)|^2.4``, row by row.

    The power is exact to 1e-6 of it, and sums are added in another order than torch's. So of two step sizes
    whose errors differ by less, either may be found.

    Args:
        rows: ``[R, n]``, float32.
        shares: ``[n]``, each value's share in a row's error.
        around: ``[R, 1]``, a step size for each row.
        factors: of ``around``, float64, increasing; then those of the best, around 1.
        bounds: smallest and largest code.

    Returns:
        ``[R, 1]``; None where no loop fits.
    """
    found = loops_for(rows)
    if found is None or rows.dtype != torch.float32:
        return None
    filled = [pad(x, (0, -rows.shape[1] % LANES)).contiguous() for x in (rows, shares)]
    around, best = around.contiguous(), torch.empty_like(around, memory_format=torch.contiguous_format)
    coarse, fine = (factor.float() for factor in factors)
    found.least_error(
        *pointers(*filled, around, best), *filled[0].shape,
        *pointers(coarse), len(coarse), *pointers(fine), len(fine), *bounds, torch.get_num_threads(),
    )  # fmt: skip
    return best
