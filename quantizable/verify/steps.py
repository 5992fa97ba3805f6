"""One stage of back-substitution: coefficients of its result become coefficients of what it reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantizable.verify.pool_bounds import Pick
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import Concat, Pad, Rearranging, Slice
from quantizable.verify.relaxation import Relaxation
from quantizable.verify.stages import Affine, Conv2d, Scale
from quantizable.verify.windows import Rows


def lines_step(lines: Relaxation, a: Rows) -> tuple[Rows, Tensor]:
    """Through linear bounds: a positive coefficient takes the upper line, a negative one the lower."""
    up, down = (Rows(part, a.start) for part in (a.values.clamp(min=0), a.values.clamp(max=0)))
    offset = up.dot(lines.upper.offset) + down.dot(lines.lower.offset)
    values = up.values * a.seen(lines.upper.slope) + down.values * a.seen(lines.lower.slope)
    return Rows(values, a.start), offset


def affine_step(stage: Affine, a: Rows, in_shape: torch.Size, shape: torch.Size) -> tuple[Rows, Tensor]:
    """Through ``A x + bias``: the adjoint, and the bias."""
    offset = a.dot(torch.broadcast_to(stage.offset, shape)[None])
    if isinstance(stage, Scale):
        factor = torch.broadcast_to(stage.factor, shape)[None]
        return Rows(a.values * a.seen(factor), a.start), offset
    if isinstance(stage, Conv2d):
        spread = stage.spread(a.values.flatten(0, 2))
        start = a.corner * torch.tensor(stage.stride) - torch.tensor(stage.padding)
        return Rows(spread.unflatten(0, a.values.shape[:3]), start).inside(in_shape), offset
    return _over_everything(stage, a, in_shape, shape), offset


def rearranging_step(stage: Rearranging, a: Rows, in_shape: torch.Size, shape: torch.Size) -> Rows:
    """Through a stage that only moves values."""
    if a.start is None or len(in_shape) != 3 or not isinstance(stage, Slice | Pad):
        return _over_everything(stage, a, in_shape, shape)
    height, width = a.values.shape[-2:]
    if isinstance(stage, Pad):
        left, _, top, _, front, _ = (*stage.padding, *[0] * (6 - len(stage.padding)))
        values = a.values[..., front : front + in_shape[0], :, :]
        return Rows(values, a.start - torch.tensor([top, left])).inside(in_shape)
    channels, rows, columns = stage.ranges
    values = a.values.new_zeros(
        *a.values.shape[:3], in_shape[0], (height - 1) * rows[2] + 1, (width - 1) * columns[2] + 1
    )
    values[..., slice(*channels), :: rows[2], :: columns[2]] = a.values
    step, first = torch.tensor([rows[2], columns[2]]), torch.tensor([rows[0], columns[0]])
    return Rows(values, a.start * step + first).inside(in_shape)


def concat_step(stage: Concat, a: Rows, in_shapes: Sequence[torch.Size], shape: torch.Size) -> list[Rows]:
    """Through a concatenation: the coefficients of each part. Only channels leave a window as it is."""
    a = a if stage.axis == 0 else a.whole(shape)
    return [Rows(part, a.start) for part in stage.split(a.values, in_shapes)]


def pool_step(stage: MaxPool2d, pick: Pick, a: Rows, in_shape: torch.Size) -> tuple[Rows, Tensor]:
    """Through max pooling, for an upper bound: see :class:`~quantizable.verify.pool_bounds.Pick`."""
    up = Rows(a.values.clamp(min=0), a.start)
    only = a.seen(pick.only.double()) > 0
    picked = torch.where(only, a.values, a.values.clamp(max=0))
    constant = up.dot(pick.high.masked_fill(pick.only, 0.0))
    start = a.corner * torch.tensor(stage.stride) - torch.tensor(stage.padding)
    height, width = (
        (n - 1) * step + kernel
        for n, step, kernel in zip(a.values.shape[-2:], stage.stride, stage.kernel, strict=True)
    )
    # where in its window the picked pixel lies; outside of the image the coefficients are 0
    at = a.seen(pick.at.double()).long()
    row = (at // in_shape[2] - start[:, None, None, 0, None, None]).clamp(0, height - 1)
    column = (at % in_shape[2] - start[:, None, None, 1, None, None]).clamp(0, width - 1)
    index = (row * width + column).flatten(4).expand(*picked.shape[:4], -1)
    plane = picked.new_zeros(*picked.shape[:4], height * width).scatter_add(4, index, picked.flatten(4))
    return Rows(plane.unflatten(4, (height, width)), start).inside(in_shape), constant


def _over_everything(stage: Affine | Rearranging, a: Rows, in_shape: torch.Size, shape: torch.Size) -> Rows:
    values = a.whole(shape).values
    return Rows(stage.adjoint(values.flatten(0, 2), in_shape).reshape(*values.shape[:3], *in_shape))
