"""Integer programming on measured sensitivities: the assignment of least total damage within the budget.

As HAWQ-V3 (Yao et al., ICML 2021, section 3.4), with measured damages in place of Hessian estimates.
"""

from __future__ import annotations

import numpy as np

from quantizable.search.greedy import damage
from quantizable.search.problem import Problem
from quantizable.search.program import AssignmentProgram, Within


def program_of(problem: Problem, rows: list[np.ndarray]) -> AssignmentProgram:
    """The program of a problem whose decisions do damage each on its own.

    Args:
        problem: the search problem, with costs that add up over layers.
        rows: damages of each decision, as :func:`quantizable.search.greedy.damage` gives them.
    """
    layers = range(len(problem.space.layers))
    sums = np.stack([np.add.outer(rows[2 * i], rows[2 * i + 1]).ravel() for i in layers])
    return AssignmentProgram(sums, limits_of(problem))


def limits_of(problem: Problem) -> list[Within]:
    """The limits of a problem on the modes of its free layers."""
    space = problem.space
    return [
        Within(space.costs(limit.cost), limit.most - space.fixed_cost(limit.cost))
        for limit in problem.budget.limits
    ]


def integer(problem: Problem) -> None:
    """Evaluate the best assignment by total damage, then the second best, and so on."""
    program = program_of(problem, damage(problem))
    while (chosen := program.solve()) is not None:
        genome = problem.space.of_modes(chosen)
        if problem.holds(genome):  # the solver's tolerance may let one slip over
            problem.evaluate(genome)
        program.exclude(chosen)
