"""First step sizes, from which learning starts: LSQ's closed form, or a search for the least error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from quantizable.kernels.search import least_error

INITS = ("search", "paper")
NORM = 2.4  # p of the error |x - x_q|^p: EQ-Net, Xu et al., ICCV 2023, sec. 3.3


def check_init(init: str) -> str:
    """Return ``init`` if it names a way to find the first step size, else raise ``ValueError``."""
    if init not in INITS:
        raise ValueError(f"init {init!r} is unknown; choose from {', '.join(INITS)}")
    return init


def channel_shape(weight: Tensor, axis: int | None) -> list[int]:
    """Shape of one step size per index of ``axis`` (``[C, 1, ...]``), or ``[]`` for one in all."""
    return [] if axis is None else [n if d == axis else 1 for d, n in enumerate(weight.shape)]


def paper_scale(x: Tensor, quant_max: int, axis: int | None = None) -> Tensor:
    """LSQ's first step size, ``2 mean|x| / sqrt(quant_max)`` (sec. 2.1); per index of ``axis`` if given."""
    dims = [d for d in range(x.dim()) if d != axis]
    return 2 * x.abs().mean(dims, keepdim=axis is not None) / quant_max**0.5


def rows_of(x: Tensor, axis: int | None, keep: int = 65536, keep_row: int = 256) -> tuple[Tensor, Tensor]:
    """One row per step size, thinned out evenly, with its two extremes; and each value's share in a mean.

    A search over every weight of a ResNet-50 takes minutes. The extremes decide what is clipped, so that a
    row may not lose them; they stand for themselves alone, each other value for those left out beside it.

    Args:
        x: the tensor.
        axis: one row for each index of this axis, or None for one in all.
        keep: values to keep in all, about.
        keep_row: values to keep of a row at least.

    Returns:
        Rows ``[R, n]`` and shares ``[n]``, which sum to 1.
    """
    rows = x.flatten()[None] if axis is None else x.movedim(axis, 0).flatten(1)
    size = rows.shape[1]
    kept = max(keep // rows.shape[0], keep_row)
    if size <= kept + 2:
        return rows, rows.new_full([size], 1 / size)
    picked = rows.index_select(1, torch.arange(kept, device=x.device) * (size - 1) // (kept - 1))
    shares = rows.new_full([kept + 2], (1 - 2 / size) / kept)
    shares[-2:] = 1 / size
    # aminmax of a row uses no vector units
    return torch.cat([picked, rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)], 1), shares


def factors_between(lowest: float, highest: float) -> tuple[Tensor, Tensor]:
    """A coarse geometric grid from lowest to highest, and a fine one over the steps beside a point of it."""
    coarse = torch.logspace(0, 1, 16, base=highest / lowest, dtype=torch.float64) * lowest
    return coarse, torch.logspace(-1, 1, 9, base=float(coarse[1] / coarse[0]), dtype=torch.float64)


def best_multiple(
    error: Callable[[Tensor], Tensor], around: Tensor, factors: tuple[Tensor, Tensor]
) -> Tensor:
    """The multiple of ``around`` with the least ``error``, for each element on its own.

    Args:
        error: maps step sizes (shape of ``around``) to their errors (same shape).
        around: positive tensor.
        factors: of ``around`` to try, and of the best of these (see :func:`factors_between`).
    """
    best, least = around, torch.full_like(around, torch.inf)
    for tried in factors:
        center = best
        for factor in tried.tolist():
            scale = center * factor
            found = error(scale)
            best = torch.where(found < least, scale, best)
            least = torch.minimum(found, least)
    return best


def search_scales(x: Tensor, ranges: Iterable[tuple[int, int]], axis: int | None = None) -> list[Tensor]:
    """For each code range the step size on a grid with the least mean ``|x - fake_quantize(x)|^2.4``.

    Args:
        x: sample of the tensor, any shape.
        ranges: smallest and largest code of each.
        axis: one step size for each index of this axis (shape ``[C, 1, ...]``), or None for one in all.
    """
    rows, shares = rows_of(x, axis)
    largest = rows.abs().amax(1, keepdim=True).clamp_min(1e-8)
    factors = factors_between(0.05, 1.2)
    found = []
    for low, high in ranges:
        around = largest / max(high, -low)
        best = least_error(rows, shares, around, factors, (low, high))
        if best is None:
            best = best_multiple(partial(_error, rows, shares, low, high), around, factors)
        found.append(best.reshape(channel_shape(x, axis)))
    return found


def _error(rows: Tensor, shares: Tensor, low: int, high: int, scale: Tensor) -> Tensor:
    quantized = (rows / scale).round_().clamp_(low, high) * scale
    return ((quantized - rows).abs_().pow_(NORM) @ shares)[:, None]
