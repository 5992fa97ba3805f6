"""A search problem: the best assignment within a budget, found with a limited number of evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from quantizable.search.costs import Cost
from quantizable.search.scoring import Scorer, check_objective
from quantizable.search.space import Genome, Space


class OutOfEvaluations(Exception):
    """The method has used up its evaluations; what it found so far counts."""


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate: its genome, cost, and what the scorer measured."""

    genome: Genome
    cost: float
    score: dict[str, float]


@dataclass
class Problem:
    """What a search method sees.

    Every distinct candidate counts as one evaluation, whether it is measured or read from the disk, so that
    methods compare fairly in any order.

    Args:
        space: what may be chosen.
        cost: what is limited.
        budget: the limit, in the cost's unit.
        scorer: measures a candidate.
        objective: ``"accuracy"``, ``"agreement"`` or ``"acr"``.
        evaluations: how many distinct candidates may be evaluated, at least 1.
        seed: of methods that draw at random.

    Raises:
        ValueError: an unknown objective, no evaluations, a budget below the smallest assignment, or ACR
            without certification.
    """

    space: Space
    cost: Cost
    budget: float
    scorer: Scorer
    objective: str = "accuracy"
    evaluations: int = 100
    seed: int = 0
    trials: dict[Genome, Trial] = field(default_factory=dict, init=False)
    scoring_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.objective == "acr" and self.scorer.incremental is None:
            raise ValueError(
                "the objective acr needs certification: give the scorer incremental=Incremental(...)"
            )
        if self.evaluations < 1:
            raise ValueError(f"evaluations is {self.evaluations}; at least 1 is needed")
        self.space.check_budget(self.cost, self.budget)

    def cost_of(self, genome: Genome) -> float:
        """Its cost."""
        return self.cost.total(self.space.layer_modes(genome))

    @property
    def baseline(self) -> Genome:
        """What fits: the mode of most bits, equal for weights and activations, or else what is cheapest."""
        return self.space.most_uniform(self.cost, self.budget)

    def evaluate(self, genome: Genome) -> Trial:
        """Cost and score of a candidate, within the budget or not; ``OutOfEvaluations`` at the end."""
        if genome not in self.trials:
            if len(self.trials) >= self.evaluations:
                raise OutOfEvaluations
            started = time.perf_counter()
            score = self.scorer(self.space.assignment(genome))
            self.scoring_seconds += time.perf_counter() - started
            self.trials[genome] = Trial(genome, self.cost_of(genome), score)
        return self.trials[genome]

    def value(self, genome: Genome) -> float:
        """The objective of a candidate; higher is better."""
        return self.evaluate(genome).score[self.objective]

    @property
    def best(self) -> Trial:
        """The best candidate within the budget so far (the cheaper of equals); the baseline at least."""
        self.evaluate(self.baseline)
        fitting = [trial for trial in self.trials.values() if trial.cost <= self.budget]
        return max(fitting, key=lambda t: (t.score[self.objective], -t.score["kl"], -t.cost))


Method = Callable[[Problem], None]


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        method: its name.
        budget: the budget it had.
        trials: everything it evaluated, in order.
        best: the best candidate within the budget.
        seconds: of its own, plus those of all its evaluations, measured now or when they were first made.
    """

    method: str
    budget: float
    trials: list[Trial]
    best: Trial
    seconds: float


def solve(name: str, method: Method, problem: Problem) -> Outcome:
    """Run a method until it ends or has used its evaluations, the first of which is the baseline's."""
    started = time.perf_counter()
    with suppress(OutOfEvaluations):
        problem.evaluate(problem.baseline)  # no method leaves with nothing, or with less
        method(problem)
    own = time.perf_counter() - started - problem.scoring_seconds
    trials = list(problem.trials.values())
    return Outcome(name, problem.budget, trials, problem.best, own + sum(t.score["seconds"] for t in trials))
