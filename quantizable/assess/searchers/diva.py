"""DIVA: Hao et al., "A Tale of Two Models", MLSys 2022, sec. 3, through the straight-through estimator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from quantizable.assess.searchers.hunt import BACKWARD, Hunt, random_start


@dataclass
class Diva:
    """Ascend ``p_ref[y] - p_quant[y]``: the reference keeps its answer, the quantized model loses it.

    It takes a gradient of both models.

    Args:
        steps: from the seed, and then from each random start; at least 1.
        step: of each pixel, as a share of the constraint's radius. Both as published: 20 steps of 1/255
            within 8/255.
    """

    steps: int = 20
    step: float = 0.125
    name: str = "DIVA"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Sign ascent until the budget is spent; where it ends, the last move is asked about."""
        inputs = hunt.seeds.clone()
        while len(hunt.active()):
            for _ in range(self.steps):
                if not len(owner := hunt.active(1 + BACKWARD)):
                    break
                slope, _ = hunt.gradient(inputs[owner], owner)
                moved = inputs[owner] + self.step * hunt.constraint.radius * slope.sign()
                inputs[owner] = hunt.constraint.project(moved, hunt.seeds[owner])
            if len(owner := hunt.active()):
                hunt.ask(inputs[owner], owner)
            inputs = random_start(hunt, generator)
