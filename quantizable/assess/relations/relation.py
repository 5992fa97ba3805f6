"""Metamorphic relations: distortions after which the answer should be the same.

One vector in [0, 1] sets all of them: per relation an activation (on above one half), then its parameters,
each scaled to its range. They are applied in a fixed order, and what is random in them (places, noise) is
drawn from a fixed seed: the same vector is the same distortion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

Change = Callable[[Tensor, list[float], Generator], Tensor]


@dataclass(frozen=True)
class Relation:
    """One distortion.

    Args:
        change: pixels ``[B, C, H, W]`` in [0, 1], the parameters in their ranges, and a generator, to pixels.
        ranges: (low, high) of each parameter.
    """

    change: Change
    ranges: tuple[tuple[float, float], ...] = field(default=())

    @property
    def name(self) -> str:
        """Of the function."""
        return self.change.__name__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Relations:
    """A fixed sequence of relations."""

    members: tuple[Relation, ...]

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(1 + len(relation.ranges) for relation in self.members)

    def apply(self, pixels: Tensor, vector: Tensor) -> Tensor:
        """The distorted batch ``[B, C, H, W]`` in [0, 1]; all inputs share the vector ``[size]`` in [0,
        1]."""
        values = vector.tolist()
        if len(values) != self.size:
            raise ValueError(f"the vector has {len(values)} entries, these relations take {self.size}")
        position, changed = 0, pixels
        for number, relation in enumerate(self.members):
            active, *raw = values[position : position + 1 + len(relation.ranges)]
            position += 1 + len(relation.ranges)
            if active > 0.5:
                scaled = [low + u * (high - low) for u, (low, high) in zip(raw, relation.ranges, strict=True)]
                source = torch.Generator().manual_seed(number)
                changed = relation.change(changed, scaled, source).clamp(0, 1)
        return changed
