"""Stages that only move values: each result is one of the inputs, or zero.

They are exact in every analysis. Each is called like a function and knows its adjoint (the transposed 0-1
matrix), which back-substitution needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Flatten:
    """``(batch, *in_shape)`` to ``(batch, features)``."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        return y.reshape(-1, *in_shape)


@dataclass(frozen=True)
class Unflatten:
    """``(batch, features)`` to ``(batch, *shape)``."""

    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        return y.reshape(-1, *in_shape)


@dataclass(frozen=True)
class Slice:
    """``x[:, a:b:c, ...]``: one ``(start, stop, step)`` for each axis after the batch, steps above 0."""

    ranges: tuple[tuple[int, int, int], ...]

    @property
    def index(self) -> tuple[slice, ...]:
        """The index, with the batch axis."""
        return (slice(None), *(slice(*part) for part in self.ranges))

    def __call__(self, x: Tensor) -> Tensor:
        return x[self.index]

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        x = y.new_zeros(y.shape[0], *in_shape)
        x[self.index] = y
        return x


@dataclass(frozen=True)
class Pad:
    """Zeros around the values (and channels): ``padding`` as ``torch.nn.functional.pad`` takes it."""

    padding: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding)

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        return F.pad(y, tuple(-amount for amount in self.padding))


@dataclass(frozen=True)
class Concat:
    """Values side by side along ``axis``, counted without the batch axis."""

    axis: int

    def __call__(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.axis + 1)

    def split(self, y: Tensor, in_shapes: Sequence[torch.Size]) -> list[Tensor]:
        """The parts of ``(..., *out_shape)`` that belong to each input."""
        axis = self.axis - len(in_shapes[0])  # from the end, whatever comes before
        return list(y.split([shape[axis] for shape in in_shapes], axis))


Rearranging = Flatten | Unflatten | Slice | Pad
REARRANGING = (Flatten, Unflatten, Slice, Pad)
