"""The floor that every search must beat: chance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator

from quantizable.assess.relations import Relations
from quantizable.assess.searchers.hunt import Hunt


@dataclass
class RandomNoise:
    """Every pixel moves up or down by the constraint's radius."""

    name: str = "random noise"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Ask about a new random input for each active seed until the budget is spent."""
        while len(owner := hunt.active()):
            seeds = hunt.seeds[owner]
            signs = 2 * torch.randint(2, seeds.shape, generator=generator) - 1
            hunt.ask(hunt.constraint.project(seeds + hunt.constraint.radius * signs, seeds), owner)


@dataclass
class RandomRelations:
    """Random settings of metamorphic relations, as :class:`DiverGet` searches among."""

    relations: Relations
    name: str = field(default="random relations")

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Ask about each active seed under a setting of its own until the budget is spent."""
        while len(owner := hunt.active()):
            vectors = torch.rand(len(owner), self.relations.size, generator=generator)
            changed = [
                self.relations.apply(hunt.seeds[[i]], vector)
                for i, vector in zip(owner.tolist(), vectors, strict=True)
            ]
            hunt.ask(torch.cat(changed), owner)
