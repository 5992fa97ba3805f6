"""A search problem: the best assignment within a budget, found with a limited number of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from quantizable.interface.progress import counting
from quantizable.search.limits import Budget
from quantizable.search.scoring import CERTIFIED, MEASURED, Scorer, check_objective, value_of
from quantizable.search.space import Genome, Space


class OutOfEvaluations(Exception):
    """The method has used up its evaluations or its time; what it found so far counts."""


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate: its genome, costs by name, and what the scorer measured."""

    genome: Genome
    costs: dict[str, float]
    score: dict[str, float]

    @property
    def cost(self) -> float:
        """That of the budget's first limit."""
        return next(iter(self.costs.values()))

    def value(self, objective: str) -> float:
        """The objective, turned so that higher is better."""
        return value_of(self.score, objective)


@dataclass
class Problem:
    """What a search method sees.

    Every distinct candidate counts as one evaluation, whether it is measured or read from the disk, so that
    methods compare fairly in any order.

    Args:
        space: what may be chosen.
        budget: what is limited, and to how much.
        scorer: measures a candidate.
        objective: one of ``OBJECTIVES``.
        evaluations: how many distinct candidates may be evaluated, at least 1.
        seed: of methods that draw at random.
        seconds: the most that a method may take, what was measured earlier included; 0: no limit.

    Raises:
        ValueError: an unknown objective, no evaluations, a budget below the smallest assignment, or ACR
            without certification.
    """

    space: Space
    budget: Budget
    scorer: Scorer
    objective: str = "accuracy"
    evaluations: int = 100
    seed: int = 0
    seconds: float = 0.0
    trials: dict[Genome, Trial] = field(default_factory=dict, init=False)
    started: float = field(default=0.0, init=False)
    scoring_seconds: float = field(default=0.0, init=False)
    looks: dict[Genome, dict[str, float]] = field(default_factory=dict, init=False)
    evaluated: Callable[[], None] = field(default_factory=lambda: lambda: None, init=False)  # after each

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if self.objective in CERTIFIED and self.scorer.incremental is None:
            raise ValueError(
                f"the objective {self.objective} needs certification: "
                "give the scorer incremental=Incremental(...)"
            )
        own = {measure.name for measure in self.scorer.measures}
        if self.objective in MEASURED and self.objective not in own:
            raise ValueError(
                f"the objective {self.objective} needs its Measure: give the scorer measures=[...]"
            )
        if not 0 <= self.seconds < float("inf"):
            raise ValueError(f"seconds is {self.seconds}; it is a number of at least 0 (0: no limit)")
        if self.evaluations < 1:
            raise ValueError(f"evaluations is {self.evaluations}; at least 1 is needed")
        self.space.check_budget(self.budget)

    def cost_of(self, genome: Genome) -> float:
        """Its cost, that of the budget's first limit."""
        return self.budget.cost.total(self.space.layer_modes(genome))

    def holds(self, genome: Genome) -> bool:
        """True if it is within the budget."""
        return self.budget.holds(self.space.layer_modes(genome))

    @property
    def baseline(self) -> Genome:
        """What fits: the mode of most bits, equal for weights and activations, or else what is cheapest."""
        return self.space.most_uniform(self.budget)

    def evaluate(self, genome: Genome) -> Trial:
        """Cost and score of a candidate, within the budget or not; ``OutOfEvaluations`` at the end."""
        if genome not in self.trials:
            if len(self.trials) >= self.evaluations or (self.trials and self.out_of_time):
                raise OutOfEvaluations
            started = self.scorer.clock()
            score = self.scorer(self.space.assignment(genome))
            self.scoring_seconds += self.scorer.clock() - started
            self.trials[genome] = Trial(genome, self.budget.costs(self.space.layer_modes(genome)), score)
            self.evaluated()
        return self.trials[genome]

    def quick(self, genome: Genome) -> float:
        """A quick look at a candidate, which counts for the time but is no evaluation: KL in nats."""
        if genome not in self.looks:
            if self.out_of_time:
                raise OutOfEvaluations
            started = self.scorer.clock()
            self.looks[genome] = self.scorer.quick(self.space.assignment(genome))
            self.scoring_seconds += self.scorer.clock() - started
        return self.looks[genome]["kl"]

    @property
    def spent(self) -> float:
        """Seconds of the method's own, and of all it had measured, now or when that was first done."""
        scores = [*(trial.score for trial in self.trials.values()), *self.looks.values()]
        own = self.scorer.clock() - self.started - self.scoring_seconds
        return own + sum(score["seconds"] for score in scores)

    @property
    def out_of_time(self) -> bool:
        """True if its seconds are over."""
        return bool(self.seconds) and self.spent >= self.seconds

    def value(self, genome: Genome) -> float:
        """The objective of a candidate; higher is better."""
        return self.evaluate(genome).value(self.objective)

    @property
    def best(self) -> Trial:
        """The best candidate within the budget so far (the cheaper of equals); the baseline at least."""
        self.evaluate(self.baseline)
        fitting = [trial for trial in self.trials.values() if self.holds(trial.genome)]
        return max(fitting, key=lambda t: (t.value(self.objective), -t.score["kl"], -t.cost))


Method = Callable[[Problem], None]


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        method: its name.
        budget: the budget it had.
        trials: everything it evaluated, in order.
        best: the best candidate within the budget.
        seconds: of its own, plus those of all its evaluations and quick looks, measured now or when they were
            first made.
        looks: how many candidates it had a quick look at.
    """

    method: str
    budget: Budget
    trials: list[Trial]
    best: Trial
    seconds: float
    looks: int = 0


def solve(name: str, method: Method, problem: Problem) -> Outcome:
    """Run a method until it ends or has used its evaluations, the first of which is the baseline's."""
    problem.started = problem.scorer.clock()
    with counting(name, problem.evaluations) as problem.evaluated, suppress(OutOfEvaluations):
        problem.evaluate(problem.baseline)  # no method leaves with nothing, or with less
        method(problem)
    seconds, best = problem.spent, problem.best
    return Outcome(name, problem.budget, [*problem.trials.values()], best, seconds, len(problem.looks))
