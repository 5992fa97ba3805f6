"""Gradient search: walk to the decision boundary, then halve the step at each crossing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from quantizable.assess.searchers.hunt import BACKWARD, Hunt, random_start

TINY = 1e-30  # of a probability whose logarithm is taken


def doubt(reference: Tensor, quantized: Tensor, label: Tensor) -> Tensor:
    """How near both models are to giving up the class: the largest other logit less that of the class, summed
    over both ``[M]``."""
    own = label[:, None]
    found = [
        rows.scatter(1, own, -torch.inf).amax(1) - rows.gather(1, own)[:, 0]
        for rows in (reference, quantized)
    ]
    return found[0] + found[1]


@dataclass
class Gradient:
    """Two models disagree near a decision boundary, on the strip between the reference's and the quantized
    model's. So the search takes steps towards the boundary until both models have crossed it, turns, and
    crosses it again and again with half the step. Between a point where both give the seed's class and one
    where both give another lies each model's boundary. They are told apart as soon as the step is as short as
    the strip is wide.

    A pair without any gradient is walked by finite differences along random directions.

    Args:
        steps: towards the boundary before another start is tried, at least 1.
        step: of each pixel, as a share of the constraint's radius.
        halvings: of the step; 16 come near what float32 can tell apart, and do not reach it.
        directions: of a finite difference; each costs two queries.
        block: pixels a side that move together in such a direction.
    """

    steps: int = 20
    step: float = 0.25
    halvings: int = 16
    directions: int = 4
    block: int = 4
    name: str = "gradient"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """From the seeds, then from random starts, until the budget is spent."""
        inputs = hunt.seeds.clone()
        while len(hunt.active()):
            self._halve(hunt, *self._walk(hunt, inputs, generator))
            inputs = random_start(hunt, generator)

    def _walk(self, hunt: Hunt, inputs: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Points before and after the boundary, ``[N, C, H, W]`` each, and a mask ``[N]`` of the seeds from
        which it was reached."""
        before, after = hunt.seeds.clone(), inputs.clone()
        crossed = torch.zeros(len(inputs), dtype=torch.bool)

        def look(owner: Tensor, answers: Tensor) -> Tensor:
            over = answers != hunt.target[owner]
            crossed[owner] = over
            before[owner[~over]] = after[owner[~over]]
            return ~over

        cost = 1 + BACKWARD if hunt.has_gradient else 1 + 2 * self.directions
        for _ in range(self.steps):
            owner = hunt.active(cost)
            owner = owner[~crossed[owner]]
            if not len(owner):
                break
            slope, answers = self._slope(hunt, after[owner], owner, generator)
            near = look(owner, answers)
            owner = owner[near]
            moved = after[owner] + self.step * hunt.constraint.radius * slope[near].sign()
            after[owner] = hunt.constraint.project(moved, hunt.seeds[owner])
        owner = hunt.active()  # the last move is asked about, too
        owner = owner[~crossed[owner]]
        if len(owner):
            look(owner, hunt.ask(after[owner], owner)[0].argmax(1))
        return before, after, crossed

    def _halve(self, hunt: Hunt, before: Tensor, after: Tensor, crossed: Tensor) -> None:
        """Ask about the middle between both sides, and put it in the place of the one that it is like."""
        for _ in range(self.halvings):
            owner = hunt.active()
            owner = owner[crossed[owner]]
            if not len(owner):
                return
            middle = (before[owner] + after[owner]) / 2
            over = hunt.ask(middle, owner)[0].argmax(1) != hunt.target[owner]
            after[owner[over]] = middle[over]
            before[owner[~over]] = middle[~over]

    def _slope(
        self, hunt: Hunt, inputs: Tensor, owner: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Gradient of :func:`doubt`, or finite differences; and the reference's answers to the inputs."""
        if hunt.has_gradient:
            return hunt.gradient(inputs, owner, doubt)
        answers = hunt.ask(inputs, owner)[0].argmax(1)
        slope, radius = torch.zeros_like(inputs), hunt.constraint.radius
        height, width = inputs.shape[-2:]
        for _ in range(self.directions):
            size = (*inputs.shape[:2], -(-height // self.block), -(-width // self.block))
            signs = 2.0 * torch.randint(2, size, generator=generator) - 1
            signs = interpolate(signs, scale_factor=self.block)[..., :height, :width]
            values = []
            for way in (radius, -radius):
                moved = hunt.constraint.project(inputs + way * signs, hunt.seeds[owner])
                a, b = (rows.clamp_min(TINY).log() for rows in hunt.ask(moved, owner))
                values.append(doubt(a, b, hunt.target[owner]).nan_to_num())
            slope += (values[0] - values[1]).view(-1, 1, 1, 1) * signs
        return slope, answers
