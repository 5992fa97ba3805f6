"""DiffChaser: Xie et al., IJCAI 2019, a genetic search in the space of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from quantizable.assess.searchers.hunt import Hunt

FITNESS = ("basic", "uncertainty", "target")


@dataclass
class DiffChaser:
    """Push one model after the other towards a decision boundary (sec. 3.2, 3.3).

    The fitness, to be minimized, is a difference of one model's probabilities: between the first and the
    second (``basic``), between the first and the ``k``-th (``uncertainty``), or between the first and a class
    fixed per seed (``target``). Half of each generation is selected by the reference's, half by the quantized
    model's.

    Args:
        fitness: "basic", "uncertainty" or "target".
        population: individuals per seed, an even number of at least 4.
        k: of "uncertainty", at least 2; taken as the number of classes where there are fewer.
        elites: best individuals of each model that live on.
        tournament, crossover, mutation: individuals that compete, share of pixels from the second parent,
            share of pixels that change.
        step: largest change of a mutated pixel, in [0, 1].

    Raises:
        ValueError: an unknown fitness, or a population that is odd or too small.
    """

    fitness: str = "basic"
    population: int = 20
    k: int = 3
    elites: int = 1
    tournament: int = 4
    crossover: float = 0.5
    mutation: float = 0.01
    step: float = 8 / 255

    def __post_init__(self) -> None:
        if self.fitness not in FITNESS:
            raise ValueError(f"fitness {self.fitness!r} is unknown; choose from {', '.join(FITNESS)}")
        if self.population < 4 or self.population % 2 or not 0 <= self.elites <= self.population // 2:
            raise ValueError(
                f"a population of {self.population} with {self.elites} elites does not work; "
                "give an even number of at least 4, and at most half of it as elites"
            )
        if self.k < 2:
            raise ValueError(f"k={self.k}; the k-th class is at least the second")
        self.name = f"DiffChaser {self.fitness}"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Evolve the populations of all active seeds together until the budget is spent."""
        size = self.population
        people = hunt.seeds[:, None].repeat_interleave(size, 1)  # [N, P, C, H, W]
        people = self._mutate(people, hunt, torch.arange(len(people)), generator)
        with torch.no_grad():
            classes = hunt.pair.reference(hunt.seeds[:1]).shape[1]
        aims = (hunt.target + torch.randint(1, classes, hunt.target.shape, generator=generator)) % classes
        owner = hunt.active()
        while len(owner):
            group = people[owner]
            p, q = hunt.ask(group.flatten(0, 1), owner.repeat_interleave(size))
            scores = [
                self.score(rows.unflatten(0, (-1, size)), aims[owner]) for rows in (p, q)
            ]  # [A, P] each
            halves = [self._breed(group, score, hunt, owner, generator) for score in scores]
            people[owner] = torch.cat(halves, 1)
            owner = hunt.active()

    def score(self, rows: Tensor, aims: Tensor) -> Tensor:
        """Fitness ``[A, P]`` of probabilities ``[A, P, K]``, lower is better; ``aims`` ``[A]`` are the target
        classes."""
        top = rows.sort(-1, descending=True).values
        if self.fitness == "basic":
            other = top[..., 1]
        elif self.fitness == "uncertainty":
            other = top[..., min(self.k, rows.shape[-1]) - 1]
        else:
            other = rows.gather(-1, aims[:, None, None].expand(*rows.shape[:2], 1))[..., 0]
        return (top[..., 0] - other).abs().nan_to_num(float("inf"))

    def _breed(self, group: Tensor, score: Tensor, hunt: Hunt, owner: Tensor, generator: Generator) -> Tensor:
        """Half of the next generation ``[A, P/2, C, H, W]``, selected by one model's score."""
        count = self.population // 2
        parents = [
            group[torch.arange(len(group))[:, None], self._tournament(score, count, generator)] for _ in "ab"
        ]
        mask = torch.rand(parents[0].shape, generator=generator) < self.crossover
        children = self._mutate(torch.where(mask, parents[1], parents[0]), hunt, owner, generator)
        best = score.argsort(1)[:, : self.elites]
        children[:, : self.elites] = group[torch.arange(len(group))[:, None], best]
        return children

    def _tournament(self, score: Tensor, count: int, generator: Generator) -> Tensor:
        """Winners ``[A, count]`` of tournaments among random individuals."""
        entries = torch.randint(self.population, (len(score), count, self.tournament), generator=generator)
        results = score[:, None].expand(-1, count, -1).gather(2, entries)
        return entries.gather(2, results.argmin(2, keepdim=True))[..., 0]

    def _mutate(self, people: Tensor, hunt: Hunt, owner: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(people.shape, generator=generator) < self.mutation
        steps = self.step * (2 * torch.rand(people.shape, generator=generator) - 1)
        seeds = hunt.seeds[owner][:, None].expand_as(people).flatten(0, 1)
        changed = hunt.constraint.project((people + draws * steps).flatten(0, 1), seeds)
        return changed.view_as(people)
