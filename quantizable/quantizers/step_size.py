"""First step sizes, from which learning starts: LSQ's closed form, or a search for the least error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
    picked = rows[:, torch.arange(kept, device=x.device) * (size - 1) // (kept - 1)]
    shares = rows.new_full([kept + 2], (1 - 2 / size) / kept)
    shares[-2:] = 1 / size
    return torch.cat([picked, *rows.aminmax(dim=1, keepdim=True)], 1), shares


def best_multiple(error: Callable[[Tensor], Tensor], around: Tensor, lowest: float, highest: float) -> Tensor:
    """The multiple of ``around``, ``lowest`` to ``highest`` times it, with the least ``error``.

    A coarse geometric grid, then a fine one around its best point, for each element on its own.

    Args:
        error: maps step sizes (shape of ``around``) to their errors (same shape).
        around: positive tensor.
        lowest, highest: range of the factor.
    """
    coarse = torch.logspace(0, 1, 16, base=highest / lowest, dtype=torch.float64) * lowest
    step = float(coarse[1] / coarse[0])
    best, least = around, torch.full_like(around, torch.inf)
    for factors in (coarse, torch.logspace(-1, 1, 9, base=step, dtype=torch.float64)):
        center = around if factors is coarse else best
        for factor in factors.tolist():
            scale = center * factor
            found = error(scale)
            best = torch.where(found < least, scale, best)
            least = torch.minimum(found, least)
    return best


def search_scale(x: Tensor, quant_min: int, quant_max: int, axis: int | None = None) -> Tensor:
    """Step size that minimizes the mean ``|x - fake_quantize(x)|^2.4``, found on a grid.

    Args:
        x: sample of the tensor, any shape.
        quant_min, quant_max: code range.
        axis: one step size for each index of this axis (shape ``[C, 1, ...]``), or None for one in all.
    """
    rows, shares = rows_of(x, axis)
    shape = channel_shape(x, axis)
    largest = x.abs().max() if axis is None else x.abs().amax([d for d in range(x.dim()) if d != axis])
    around = largest.reshape(-1, 1).clamp_min(1e-8) / max(quant_max, -quant_min)

    def error(scale: Tensor) -> Tensor:
        quantized = (rows / scale).round_().clamp_(quant_min, quant_max) * scale
        return ((quantized - rows).abs_().pow_(NORM) @ shares)[:, None]

    return best_multiple(error, around, 0.05, 1.2).reshape(shape)
