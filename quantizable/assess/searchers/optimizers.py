"""pymoo's and cma's optimizers of a vector in [0, 1] behind one ask and tell."""

from __future__ import annotations

import numpy as np


class Pymoo:
    """An algorithm of pymoo, minimizing."""

    def __init__(self, algorithm: object, size: int, seed: int) -> None:
        from pymoo.core.problem import Problem

        self.problem = Problem(n_var=size, n_obj=1, xl=0.0, xu=1.0)
        self.algorithm = algorithm
        algorithm.setup(self.problem, termination=("n_gen", 10**6), seed=seed, verbose=False)  # type: ignore[attr-defined]

    def ask(self) -> np.ndarray:
        """The next generation, ``[P, size]``."""
        self.candidates = self.algorithm.ask()  # type: ignore[attr-defined]
        return np.clip(self.candidates.get("X"), 0, 1)

    def tell(self, values: np.ndarray) -> None:
        """Its fitness ``[P]``."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        Evaluator().eval(StaticProblem(self.problem, F=values[:, None]), self.candidates)
        self.algorithm.tell(infills=self.candidates)  # type: ignore[attr-defined]


def pso(size: int, seed: int, population: int) -> Pymoo:
    """Particle swarm as DiverGet sets it: inertia 1, both accelerations 0.5."""
    from pymoo.algorithms.soo.nonconvex.pso import PSO

    swarm = PSO(pop_size=population, w=1.0, c1=0.5, c2=0.5, adaptive=False, pertube_best=False)
    return Pymoo(swarm, size, seed)


def genetic(size: int, seed: int, population: int) -> Pymoo:
    """Genetic algorithm as DiverGet sets it: uniform crossover 0.5, mutation 0.1."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PM

    crossover, mutation = UniformCrossover(prob=0.5), PM(prob=1.0, prob_var=0.1)
    return Pymoo(GA(pop_size=population, crossover=crossover, mutation=mutation), size, seed)


class Cma:
    """Covariance matrix adaptation (Hansen); not one of DiverGet's."""

    def __init__(self, size: int, seed: int, population: int) -> None:
        import cma

        options = {
            "bounds": [0, 1],
            "seed": seed + 1,
            "popsize": population,
            "verbose": -9,
        }  # cma reads seed 0 as "any"
        self.strategy = cma.CMAEvolutionStrategy(np.full(size, 0.5), 0.3, options)

    def ask(self) -> np.ndarray:
        """The next generation, ``[P, size]``."""
        self.candidates = self.strategy.ask()
        return np.array(self.candidates)

    def tell(self, values: np.ndarray) -> None:
        """Its fitness ``[P]``."""
        self.strategy.tell(self.candidates, values.tolist())


OPTIMIZERS = {"pso": (pso, 3), "genetic": (genetic, 10), "cma": (Cma, 10)}
"""How each is made, and its usual population: what DiverGet publishes for its two."""
