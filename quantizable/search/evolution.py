"""Evolutionary search: NSGA-II on objective against cost (Deb et al., 2002), from pymoo."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from quantizable.search.problem import Problem
from quantizable.search.space import Genome

POPULATION = 20


def check_installed() -> None:
    """``ImportError``, with what to install, if pymoo is missing."""
    if find_spec("pymoo") is None:
        raise ImportError("evolutionary search needs pymoo: pip install 'quantizable[search]'")


def evolution(problem: Problem) -> None:
    """Evolve the front of high score and low cost; every candidate is brought within the budget first.

    Raises:
        ImportError: pymoo is not installed.
    """
    check_installed()
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PolynomialMutation
    from pymoo.optimize import minimize

    generator = np.random.default_rng(problem.seed)
    highest = np.array(problem.space.highest)

    def within_budget(x: np.ndarray) -> Genome:
        genome = tuple(int(v) for v in np.clip(np.rint(x), 0, highest))
        order = [int(i) for i in generator.permutation(len(genome))]
        return problem.space.lowered(genome, problem.budget, order)

    class WithinBudget(Repair):
        """Rounds to widths, then lowers decisions in random order."""

        def _do(self, _: Any, X: np.ndarray, **kwargs: Any) -> np.ndarray:
            return np.array([within_budget(x) for x in X], float)

    class Bits(ElementwiseProblem):
        """Minimize (-score, cost)."""

        def __init__(self) -> None:
            # half a step of room on both sides: a decision with one width must not have an empty range
            super().__init__(n_var=len(highest), n_obj=2, xl=-0.49, xu=highest + 0.49)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            trial = problem.evaluate(tuple(int(v) for v in x))
            # the KL divergence decides between candidates of equal score
            value = trial.value(problem.objective) - 1e-6 * trial.score["kl"]
            out["F"] = [-value, problem.budget.limits[0].of(trial.cost)]

    uniform = [problem.space.uniform(mode) for mode in problem.space.modes]
    # the most bits first: the population may not hold them all
    uniform.sort(key=problem.cost_of, reverse=True)
    start = [genome for genome in uniform if problem.holds(genome)]
    while len(start) < POPULATION:
        start.append(within_budget(generator.integers(0, highest + 1)))
    algorithm = NSGA2(
        POPULATION,
        sampling=np.array(start[:POPULATION], float),
        crossover=UniformCrossover(),
        mutation=PolynomialMutation(eta=3),
        repair=WithinBudget(),
    )
    minimize(Bits(), algorithm, ("n_gen", problem.evaluations), seed=problem.seed)
