"""DiverGet: Yahmed et al. 2022, search among settings of metamorphic relations, by pymoo or cma."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from quantizable.assess.relations import Relations
from quantizable.assess.searchers.constraint import psnr
from quantizable.assess.searchers.fitness import Divergence, Fitness, Score
from quantizable.assess.searchers.hunt import Hunt
from quantizable.assess.searchers.optimizers import OPTIMIZERS

PATIENCE = 6  # generations without improvement after which a search starts anew


@dataclass
class DiverGet:
    """One setting distorts a batch of seeds alike; the setting whose outputs score best is sought.

    A setting is valid if the median PSNR of the batch is at least ``decibel``; of its inputs only those that
    the hunt's constraint allows are ever recorded.

    Args:
        relations: the distortions.
        optimizer: "pso", "genetic" or "cma".
        fitness: what is pursued: a distance between the pair's outputs, or surprise coverage.
        population: settings of a generation; None: 3 for the swarm, 10 for the others. Published: 10 for the
            swarm, too, where coverage is the fitness.
        batch: seeds that share a setting.
        generations: at most, before a search starts anew with the seeds that are left.
        decibel: validity of a setting.

    Raises:
        ValueError: an unknown optimizer, or fewer than 2 settings in a generation.
    """

    relations: Relations
    optimizer: str = "pso"
    fitness: Fitness = field(default_factory=Divergence)
    population: int | None = None
    batch: int = 8
    generations: int = 10
    decibel: float = 20.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is unknown; choose from {', '.join(OPTIMIZERS)}")
        if self.population is not None and self.population < 2:
            raise ValueError(f"a population of {self.population} does not work; give at least 2")
        self.name = f"DiverGet {self.optimizer} ({self.fitness.name})"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Search in batches of the active seeds until the budget is spent."""
        score = self.fitness.start()
        while len(active := hunt.active()):
            groups = list(active.split(self.batch))
            searches = [self._start(generator) for _ in groups]
            best = [np.inf] * len(groups)
            barren = [0] * len(groups)
            for _ in range(self.generations):
                running = [
                    g for g in range(len(groups)) if barren[g] < PATIENCE and self._wanted(hunt, groups[g])
                ]
                if not running:
                    break
                vectors = [searches[g].ask() for g in running]  # each [P, size] in [0, 1]
                values = self._evaluate(hunt, [groups[g] for g in running], vectors, score)
                for g, found in zip(running, values, strict=True):
                    searches[g].tell(found)
                    barren[g] = 0 if found.min() < best[g] else barren[g] + 1
                    best[g] = min(best[g], float(found.min()))

    def _start(self, generator: Generator) -> Any:
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        make, usual = OPTIMIZERS[self.optimizer]
        return make(self.relations.size, seed, self.population or usual)

    def _wanted(self, hunt: Hunt, group: Tensor) -> bool:
        return bool(torch.isin(group, hunt.active()).any())

    def _evaluate(
        self, hunt: Hunt, groups: list[Tensor], vectors: list[np.ndarray], score: Score
    ) -> list[np.ndarray]:
        """Fitness, lower is better, of each group's settings; all inputs of all groups go through the pair at
        once.

        Seeds that are found, or out of budget, are no longer asked about: a shared setting serves the rest.
        """
        active = hunt.active()
        groups = [group[torch.isin(group, active)] for group in groups]
        inputs, owners, sizes, penalties = [], [], [], []
        for group, settings in zip(groups, vectors, strict=True):
            seeds = hunt.seeds[group]
            for vector in torch.from_numpy(settings).float():
                changed = self.relations.apply(seeds, vector)
                inputs.append(changed)
                owners.append(group)
                sizes.append(len(group))
                penalties.append(max(self.decibel - psnr(changed, seeds).median().item(), 0.0))
        p, q = hunt.ask(torch.cat(inputs), torch.cat(owners))
        fitness = []
        for reference, quantized, far in zip(p.split(sizes), q.split(sizes), penalties, strict=True):
            known = torch.isfinite(reference).all(1)  # the others came when their seed's budget was spent
            if far > 0:  # worse than any valid setting, and the more so the further it is from validity
                fitness.append(far)
            else:  # the score sees valid settings alone: what others reach is not covered
                fitness.append(-score(reference[known], quantized[known]) if known.any() else 0.0)
        ends = np.cumsum([len(settings) for settings in vectors])
        return np.split(np.array(fitness), ends[:-1])
