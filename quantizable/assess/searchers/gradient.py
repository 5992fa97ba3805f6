"""Gradient search: DIVA (Hao et al., MLSys 2022, sec. 3), through the straight-through estimator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from quantizable.assess.searchers.hunt import BACKWARD, Hunt


@dataclass
class Gradient:
    """Ascend ``p_ref[y] - p_quant[y]``: the reference keeps its answer, the quantized model loses it.

    Every second start descends instead: on half of the boundaries it is the reference that changes first, and
    DIVA, which ascends only, cannot see the disagreements there.

    Args:
        steps: between two random starts, at least 1.
        step: of each pixel, as a share of the constraint's radius.
    """

    steps: int = 10
    step: float = 0.25
    name: str = "gradient"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Sign ascent from random starts until the budget is spent."""
        radius, direction = hunt.constraint.radius, 1
        while len(hunt.active(1 + BACKWARD)):
            noise = 2 * torch.rand(hunt.seeds.shape, generator=generator) - 1
            inputs = hunt.constraint.project(hunt.seeds + radius * noise, hunt.seeds)
            for _ in range(self.steps):
                owner = hunt.active(1 + BACKWARD)
                if not len(owner):
                    break
                slope = hunt.gradient(inputs[owner], owner)
                moved = inputs[owner] + direction * self.step * radius * slope.sign()
                inputs[owner] = hunt.constraint.project(moved, hunt.seeds[owner])
            direction = -direction
