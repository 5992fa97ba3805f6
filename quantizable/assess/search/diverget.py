"""DiverGet: Yahmed et al. 2022, search among settings of metamorphic relations, by pymoo or cma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from quantizable.assess.agreement import js_distance
from quantizable.assess.relations import Relations
from quantizable.assess.search.constraint import Psnr, psnr
from quantizable.assess.search.hunt import Hunt
from quantizable.assess.search.optimizers import OPTIMIZERS

PATIENCE = 6  # generations without improvement after which a search starts anew


@dataclass
class DiverGet:
    """One setting distorts a batch of seeds alike; the setting that drives the pair furthest apart is sought.

    The fitness is the mean Jensen-Shannon distance of the batch's outputs. A setting is valid if the median
    PSNR of the batch is at least ``decibel``; of its inputs only those that the hunt's constraint allows are
    ever recorded.

    Args:
        relations: the distortions.
        optimizer: "pso" (swarm of 3), "genetic" (population of 10) or "cma".
        batch: seeds that share a setting.
        generations: at most, before a search starts anew with the seeds that are left.
        decibel: validity of a setting.

    Raises:
        ValueError: an unknown optimizer.
    """

    relations: Relations
    optimizer: str = "pso"
    batch: int = 8
    generations: int = 10
    decibel: float = 20.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is unknown; choose from {', '.join(OPTIMIZERS)}")
        self.limit = Psnr(self.decibel)
        self.name = f"DiverGet {self.optimizer}"

    def run(self, hunt: Hunt, generator: Generator) -> None:
        """Search in batches of the active seeds until the budget is spent."""
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
                values = self._evaluate(hunt, [groups[g] for g in running], vectors)
                for g, found in zip(running, values, strict=True):
                    searches[g].tell(found)
                    barren[g] = 0 if found.min() < best[g] else barren[g] + 1
                    best[g] = min(best[g], float(found.min()))

    def _start(self, generator: Generator) -> Any:
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        return OPTIMIZERS[self.optimizer](self.relations.size, seed)

    def _wanted(self, hunt: Hunt, group: Tensor) -> bool:
        return bool(torch.isin(group, hunt.active()).any())

    def _evaluate(self, hunt: Hunt, groups: list[Tensor], vectors: list[np.ndarray]) -> list[np.ndarray]:
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
        known = torch.isfinite(p).all(1)
        distance = torch.zeros(len(p), dtype=torch.double)
        distance[known] = js_distance(p[known], q[known]) if known.any() else 0.0
        means = [part.mean().item() for part in distance.split(sizes)]
        # an invalid setting is worse than any valid one, and the more so the further it is from validity
        fitness = [pen if pen > 0 else -mean for mean, pen in zip(means, penalties, strict=True)]
        ends = np.cumsum([len(settings) for settings in vectors])
        return np.split(np.array(fitness), ends[:-1])
