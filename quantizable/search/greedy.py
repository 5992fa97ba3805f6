"""Greedy by sensitivity: lower the bits that hurt least for what they save."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import numpy as np

from quantizable.search.problem import Problem
from quantizable.search.space import Genome


def damage(problem: Problem) -> list[np.ndarray]:
    """How much each decision alone hurts, ``[decisions][widths]``: KL (nats) from the highest mode.

    All other decisions stay at their highest width. The KL divergence and not the objective, because one
    decision changes the answer for so few images that accuracy cannot rank them.
    Costs one evaluation per decision and width; those that no longer fit in three quarters of the
    problem's evaluations are taken for as bad as the worst one measured.
    """
    top = problem.space.highest
    rows = [np.full(len(widths), np.nan) for widths in problem.space.widths]
    for row, index in zip(rows, top, strict=True):
        row[index] = 0.0
    steps = [(i, k) for k in range(max(top)) for i, row in enumerate(rows) if k < len(row) - 1]
    base = problem.evaluate(top).score["kl"]
    for decision, index in steps:
        if len(problem.trials) >= max(2, (3 * problem.evaluations) // 4):
            break
        genome = (*top[:decision], index, *top[decision + 1 :])
        rows[decision][index] = max(0.0, problem.evaluate(genome).score["kl"] - base)
    worst = max(np.nanmax(row) for row in rows)
    return [_filled(row, widths, worst) for row, widths in zip(rows, problem.space.widths, strict=True)]


def _filled(row: np.ndarray, widths: Sequence[int], worst: float) -> np.ndarray:
    # quantization noise falls to a quarter with every bit, and small damage with it: between two measured
    # widths the line over 4^-bits; below the lowest measured one the worst of all
    noise, known = 4.0 ** -np.array(widths), ~np.isnan(row)
    filled = np.interp(-noise, -noise[known], row[known], left=worst)
    return np.maximum.accumulate(filled[::-1])[::-1]  # more bits never count as worse


def lowered_by_damage(
    problem: Problem, start: Genome, rows: list[np.ndarray], keep: Collection[int] = ()
) -> Genome | None:
    """Lower one decision after another, the least damage per cost saved first, until the budget holds.

    Returns:
        the genome, or None if it cannot be reached without lowering a decision in ``keep``.
    """
    genome, modes_of = start, problem.space.layer_modes
    while over := problem.budget.over(modes_of(genome)):
        taken = sum(limit.share(modes_of(genome)) for limit in over)
        options = []
        for i, index in enumerate(genome):
            if index > 0 and i not in keep:
                lower = (*genome[:i], index - 1, *genome[i + 1 :])
                saved = max(taken - sum(limit.share(modes_of(lower)) for limit in over), 1e-12)
                options.append(((rows[i][index - 1] - rows[i][index]) / saved, lower))
        if not options:
            return None
        genome = min(options)[1]
    return genome


def greedy(problem: Problem) -> None:
    """The greedy assignment or a uniform one, whichever is better, then swaps (raise one decision, lower
    others) for the evaluations left.
    """
    rows = damage(problem)
    # latencies need not fall with the bits: then nothing may be left to lower
    lowered = lowered_by_damage(problem, problem.space.highest, rows) or problem.baseline
    value, best = max((_rank(problem, genome), genome) for genome in [lowered, problem.baseline])
    generator, misses = random.Random(problem.seed), 0
    while misses < 20 * len(best):
        raised = generator.randrange(len(best))
        if best[raised] + 1 == len(problem.space.widths[raised]):
            misses += 1
            continue
        start = (*best[:raised], best[raised] + 1, *best[raised + 1 :])
        # another decision goes down first, so that the swaps differ from each other
        candidates = [i for i, index in enumerate(start) if index > 0 and i != raised]
        if candidates:
            i = generator.choice(candidates)
            start = (*start[:i], start[i] - 1, *start[i + 1 :])
        genome = lowered_by_damage(problem, start, rows, keep=(raised,))
        if genome is None or genome in problem.trials:
            misses += 1
            continue
        if (rank := _rank(problem, genome)) > value:
            best, value, misses = genome, rank, 0


def _rank(problem: Problem, genome: Genome) -> tuple[float, float]:
    return problem.value(genome), -problem.evaluate(genome).score["kl"]
