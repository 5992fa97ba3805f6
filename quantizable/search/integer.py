"""Integer programming on sensitivities: the assignment with the least total damage within the budget (HiGHS).

As HAWQ-V3 (Yao et al., ICML 2021, section 3.4), with measured damages in place of Hessian estimates.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from quantizable.search.greedy import damage
from quantizable.search.problem import Problem
from quantizable.search.space import Genome


class IntegerProgram:
    """The 0-1 program: one mode per layer, costs within the budget, least sum of damages.

    Args:
        problem: the search problem, with a cost that adds up over layers.
        rows: damages of each decision, as :func:`quantizable.search.greedy.damage` gives them.
    """

    def __init__(self, problem: Problem, rows: list[np.ndarray]) -> None:
        space = problem.space
        self.layers, self.modes = len(space.layers), space.modes
        pairs = [(w, a) for w in range(len(space.weights)) for a in range(len(space.activations))]
        self.pairs = pairs
        self.objective = np.array(
            [rows[2 * i][w] + rows[2 * i + 1][a] for i in range(self.layers) for w, a in pairs]
        )
        costs = np.array([problem.cost.of(name, mode) for name in space.layers for mode in space.modes])
        left = problem.budget - sum(problem.cost.of(name, mode) for name, mode in space.fixed.items())
        scale = max(costs.max(), 1e-12)  # the solver's tolerances are absolute
        one_mode = np.kron(np.eye(self.layers), np.ones(len(pairs)))
        self.constraints = [
            LinearConstraint(one_mode, 1, 1),
            LinearConstraint(costs[None] / scale, -np.inf, left / scale),
        ]

    def solve(self) -> Genome | None:
        """The best assignment that was not excluded; None if there is none."""
        # exact, as the next best is asked for; equal costs within the solver's tolerance may swap places
        result = milp(self.objective, integrality=np.ones_like(self.objective), bounds=Bounds(0, 1),
                      constraints=self.constraints, options={"mip_rel_gap": 0})  # fmt: skip
        if result.x is None:
            return None
        chosen = result.x.reshape(self.layers, -1).argmax(1)
        return tuple(index for mode in chosen for index in self.pairs[mode])

    def exclude(self, genome: Genome) -> None:
        """Cut one assignment off: not all of its layers may keep their modes."""
        row = np.zeros((self.layers, len(self.pairs)))
        for layer, pair in enumerate(zip(genome[::2], genome[1::2], strict=True)):
            row[layer, self.pairs.index(pair)] = 1
        self.constraints.append(LinearConstraint(row.reshape(1, -1), -np.inf, self.layers - 1))


def integer(problem: Problem) -> None:
    """Evaluate the best assignment by total damage, then the second best, and so on."""
    program = IntegerProgram(problem, damage(problem))
    while (genome := program.solve()) is not None:
        if problem.cost_of(genome) <= problem.budget:  # the solver's tolerance may let one slip over
            problem.evaluate(genome)
        program.exclude(genome)
