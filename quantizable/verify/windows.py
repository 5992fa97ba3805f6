"""Coefficients of linear forms over an image, where each row sees only a window of it.

A neuron of a convolution depends on the few pixels around its place. Towards the input its window grows with
every convolution, so its coefficients take the size of the window, not of the image: memory grows with the
feature maps and not with their square. A window that would cover the image becomes the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Rows:
    """Coefficients of one value of a network, many rows of them. The rows of one place share a window.

    Attributes:
        values: ``(batch or 1, places, rows, *size)``. Of an image, ``size`` is channels, height and width of
            the window.
        start: the pixel of the image at each window's upper left corner, ``(places, 2)``. It may lie outside
            of the image; coefficients there are 0. None: the rows cover the whole value.
    """

    values: Tensor
    start: Tensor | None = None

    @property
    def size(self) -> int:
        """Coefficients of one row."""
        return self.values[0, 0, 0].numel()

    @property
    def corner(self) -> Tensor:
        """``start``, with zeros for rows that cover everything."""
        if self.start is not None:
            return self.start
        return torch.zeros(self.values.shape[1], 2, dtype=torch.long)

    def __getitem__(self, part: slice) -> Rows:
        """Some of the rows of each place."""
        return Rows(self.values[:, :, part], self.start)

    def seen(self, x: Tensor) -> Tensor:
        """The part of ``x`` that each place sees, 0 outside: ``(batch, *shape)`` to ``(batch, places, 1,
        *size)``, or 1 place if all see everything."""
        if self.start is None:
            return x[:, None, None]
        height, width = self.values.shape[-2:]
        x = F.pad(x, (width, width, height, height))
        rows, columns = (
            (self.start[:, axis, None] + size + torch.arange(size)).clamp(0, x.shape[2 + axis] - 1)
            for axis, size in enumerate((height, width))
        )
        return x[:, :, rows[:, :, None], columns[:, None, :]].transpose(1, 2)[:, :, None]

    def dot(self, x: Tensor) -> Tensor:
        """Each row times ``x``, ``(batch, *shape)``: ``(batch, places, rows)``."""
        a, seen = self.values.flatten(3), self.seen(x).flatten(3)[:, :, 0]
        if a.shape[0] > 1:
            return (a @ seen[..., None].expand(*a.shape[:2], -1, 1))[..., 0]
        if seen.shape[1] == 1:  # one product for all rows of all places
            return (seen[:, 0] @ a[0].flatten(0, 1).T).reshape(-1, *a.shape[1:3])
        return (a[0] @ seen.permute(1, 2, 0)).permute(2, 0, 1)

    def absolute(self) -> Rows:
        return Rows(self.values.abs(), self.start)

    def whole(self, shape: Sequence[int]) -> Rows:
        """The same coefficients over the whole value."""
        if self.start is None:
            return self
        height, width = self.values.shape[-2:]
        result = self.values.new_zeros(*self.values.shape[:3], *shape)
        for place, (top, left) in enumerate(self.start.tolist()):
            rows = slice(max(top, 0), min(top + height, shape[-2]))
            columns = slice(max(left, 0), min(left + width, shape[-1]))
            if rows.start < rows.stop and columns.start < columns.stop:
                inside = self.values[
                    :,
                    place,
                    ...,
                    rows.start - top : rows.stop - top,
                    columns.start - left : columns.stop - left,
                ]
                result[:, place, ..., rows, columns] = inside
        return Rows(result)

    def inside(self, shape: Sequence[int]) -> Rows:
        """Without what lies outside of the image; the whole image where that takes no more memory."""
        assert self.start is not None
        sizes = torch.tensor(self.values.shape[-2:])
        image = torch.tensor(shape[-2:])
        before = (-self.start.amax(0)).clamp(min=0)  # outside for every place
        after = (self.start.amin(0) + sizes - image).clamp(min=0)
        (top, left), (height, width) = before.tolist(), (sizes - before - after).tolist()
        cut = Rows(self.values[..., top : top + height, left : left + width], self.start + before)
        if len(self.start) == 1 or height * width >= shape[-2] * shape[-1]:
            return cut.whole(shape)
        assert cut.start is not None
        valid = []
        for axis, size in enumerate((height, width)):
            at = cut.start[:, axis, None] + torch.arange(size)
            valid.append((at >= 0) & (at < shape[axis - 2]))
        mask = valid[0][:, :, None] & valid[1][:, None, :]
        return cut if bool(mask.all()) else Rows(cut.values * mask[:, None, None], cut.start)

    def plus(self, other: Rows, shape: Sequence[int]) -> Rows:
        """The sum of coefficients of one value."""
        if self.start is None or other.start is None:
            return Rows(self.whole(shape).values + other.whole(shape).values)
        shift = other.start - self.start
        if not bool((shift == shift[0]).all()):
            return Rows(self.whole(shape).values + other.whole(shape).values)
        mine, theirs = (torch.tensor(x.values.shape[-2:]) for x in (self, other))
        low = shift[0].clamp(max=0)
        high = torch.maximum(mine, shift[0] + theirs)
        total = _grown(self.values, -low, high - mine) + _grown(
            other.values, shift[0] - low, high - shift[0] - theirs
        )
        return Rows(total, self.start + low)


def _grown(x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Zeros around the last two axes."""
    (top, left), (bottom, right) = before.tolist(), after.tolist()
    return F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


def single_neurons(shape: torch.Size, places: slice) -> Rows:
    """Rows ``+v_i`` of all neurons ``i`` of some places, then ``-v_i``. A place is a pixel of an image.

    Args:
        shape: of the value. One that is no image has one place, and as many places as neurons to choose rows
            from: its rows are those of ``+v`` and then of ``-v``, from ``places.start`` on.
    """
    if len(shape) == 3:
        at = torch.arange(places.start, places.stop)
        start = torch.stack([at // shape[2], at % shape[2]], 1)
        signs = torch.cat([torch.eye(shape[0]), -torch.eye(shape[0])]).double()
        return Rows(signs.reshape(1, 1, *signs.shape, 1, 1).repeat(1, len(at), 1, 1, 1, 1), start)
    size = shape.numel()
    at = torch.arange(places.start, places.stop)
    rows = torch.zeros(1, 1, 2 * len(at), size, dtype=torch.float64)
    rows[0, 0, torch.arange(len(at)), at] = 1.0
    rows[0, 0, torch.arange(len(at)) + len(at), at] = -1.0
    return Rows(rows.reshape(1, 1, -1, *shape))
