"""Cheap candidates from one pass: integer programming with pairs, descent, and learning from quick looks.

The damage of an assignment is read off an expansion of the divergence (:mod:`.expansion`) in microseconds, so
that hundreds of thousands are compared. Those with the least are run, with norms from one pass
(:mod:`.quick_norms`); what the expansion was off by corrects it, round by round. The best by these looks are
evaluated in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from quantizable.search.expansion import Expansion, expand
from quantizable.search.integer import limits_of
from quantizable.search.problem import Problem
from quantizable.search.program import AssignmentProgram, Pair
from quantizable.search.space import Genome

IMAGES, BATCH = 256, 64  # to expand on
PAIRS = 60  # that the program knows; descent knows all
STARTS = 8  # of descents in a round, beside the programs' solutions
NODES = 1000  # of the program's search tree
LOOKS, EVALUATED = 12, 4  # quick looks and full evaluations of a round


def fisher(problem: Problem) -> None:
    """Round by round: quick looks at what the expansion ranks first, the best of all in full, and learn."""
    pool = Pool(problem)
    looks = {problem.baseline: problem.quick(problem.baseline)}
    while True:
        pool.search()
        fresh = [*islice((genome for genome in pool.ranked() if genome not in looks), LOOKS)]
        looks |= {genome: problem.quick(genome) for genome in fresh}
        open_ = (genome for genome in sorted(looks, key=looks.__getitem__) if genome not in problem.trials)
        for genome in [*(islice(open_, EVALUATED) if fresh else open_)]:
            problem.evaluate(genome)
        if not fresh:
            return
        pool.learn(looks)


class Pool:
    """The assignments within a budget that do least damage by an expansion around the baseline.

    Attributes:
        expansion: of the divergence.
        model: the same, corrected by what was learned.
        found: damage in nats by the model, by assignment as indices of modes.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, space = problem, problem.space
        images = problem.scorer.images[:IMAGES].split(BATCH)
        self.expansion = expand(problem.scorer.network, space, images, problem.baseline, seed=problem.seed)
        self.limits = [(one.costs, one.most) for one in limits_of(problem)]
        self.generator = np.random.default_rng(problem.seed)
        self.model, self.found = self.expansion, dict[tuple[int, ...], float]()
        modes = space.layer_modes(problem.baseline)
        self.start = np.array([space.modes.index(modes[name]) for name in space.layers])

    def search(self) -> None:
        """Find assignments of little damage: the programs' solutions, and descents from these, shaken."""
        layers, modes = self.model.first.shape
        self.found = {}
        ends = [self.descend(start) for start in [self.start, *self._programmed()]]
        for _ in range(STARTS):
            shaken = ends[int(np.argmin([self.model.divergence(end) for end in ends]))].copy()
            moved = self.generator.random(layers) < 0.2
            shaken[moved] = self.generator.integers(0, modes, int(np.count_nonzero(moved)))
            if self.within(shaken[None])[0]:
                ends.append(self.descend(shaken))

    def ranked(self) -> Iterator[Genome]:
        """What was found, from the least damage on."""
        found = sorted(self.found, key=self.found.__getitem__)
        return filter(self.problem.holds, map(self.problem.space.of_modes, found))

    def learn(self, looks: Mapping[Genome, float]) -> None:
        """Correct the expansion by quick looks, nats by genome."""
        widths = len(self.problem.space.activations)
        pairs = np.array([[genome[::2], genome[1::2]] for genome in looks])
        self.model = self.expansion.corrected(pairs[:, 0] * widths + pairs[:, 1], [*looks.values()])

    def within(self, chosen: np.ndarray) -> np.ndarray:
        """Which of ``chosen [n, layers]`` keep all limits, bool ``[n]``."""
        layers = np.arange(chosen.shape[1])
        held = [costs[layers, chosen].sum(1) <= most + 1e-9 * abs(most) for costs, most in self.limits]
        return np.all(held, axis=0)

    def descend(self, chosen: np.ndarray) -> np.ndarray:
        """From an assignment down to where no change of one layer, or of two drawn ones, does less damage."""
        least = float(self.model.divergence(chosen))
        while True:
            near = self._neighbors(chosen)
            near = near[self.within(near)]
            damages = self.model.divergence(near)
            self._note(near, damages)
            if not len(near) or damages.min() >= least - 1e-12:
                return chosen
            chosen, least = near[damages.argmin()], float(damages.min())

    def _neighbors(self, chosen: np.ndarray, pairs: int = 1000) -> np.ndarray:
        layers, modes = self.model.first.shape
        single = np.repeat(chosen[None], layers * modes, 0)
        single[np.arange(layers * modes), np.repeat(np.arange(layers), modes)] = np.tile(
            np.arange(modes), layers
        )
        double = np.repeat(chosen[None], pairs, 0)
        for _ in range(2):
            double[np.arange(pairs), self.generator.integers(0, layers, pairs)] = self.generator.integers(
                0, modes, pairs
            )
        return np.concatenate([single, double])

    def _note(self, chosen: np.ndarray, damages: np.ndarray, keep: int = 500) -> None:
        for i in np.argsort(damages, kind="stable")[:keep]:
            self.found[tuple(map(int, chosen[i]))] = float(damages[i])

    def _programmed(self) -> Iterator[np.ndarray]:
        """The solution of the program with the strongest pairs, and of the one without."""
        alone, limits = self.model.alone(), limits_of(self.problem)
        for pairs in (strongest_pairs(self.model, PAIRS), {}):
            solution = AssignmentProgram(alone, limits, pairs, NODES).solve()
            if solution is not None and self.within(solution[None])[0]:
                yield solution


def strongest_pairs(expansion: Expansion, count: int) -> dict[Pair, float]:
    """The ``count`` largest second-order terms of two modes of two layers, nats."""
    layers, modes = expansion.first.shape
    upper = np.triu(expansion.second, 1)
    for i in range(layers):  # two modes of one layer exclude each other
        own = slice(i * modes, (i + 1) * modes)
        upper[own, own] = 0
    order = np.argsort(-np.abs(upper), axis=None, kind="stable")[:count]
    rows, columns = np.divmod(order, len(upper))
    return {
        (int(r) // modes, int(r) % modes, int(c) // modes, int(c) % modes): float(upper[r, c])
        for r, c in zip(rows, columns, strict=True)
        if upper[r, c] != 0
    }
