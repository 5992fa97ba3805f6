"""Uniform bits: the baseline. One mode for all free layers."""

from __future__ import annotations

from quantizable.search.problem import Problem


def uniform(problem: Problem) -> None:
    """Evaluate each mode (weights and activations apart) that fits the budget, the most expensive first."""
    genomes = [problem.space.uniform(mode) for mode in problem.space.modes]
    for genome in sorted(genomes, key=problem.cost_of, reverse=True):
        if problem.holds(genome):
            problem.evaluate(genome)
