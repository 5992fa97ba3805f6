"""Concrete inputs: replay through both networks, and a search for the largest difference.

A counterexample counts only after replay. The search runs the true networks (rounding included). A short one
is a (1 + lambda) evolution strategy: start from good corners, change a few inputs at random, keep what is
better. A long one is simulated annealing (:mod:`~quantizable.verify.annealing`), which the strategy's best
input begins. They can only refute, never prove.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.verify.annealing import anneal
from quantizable.verify.box import Box
from quantizable.verify.graph import Graph


@dataclass(frozen=True)
class Replay:
    """Both networks' outputs at one input.

    Attributes:
        x: the input, ``input_shape``.
        first, second: the outputs, ``(outputs,)``.
        value: the signed quantity asked about, ``weights . (second - first)``.
    """

    x: Tensor
    first: Tensor
    second: Tensor
    value: float


def replay(first: Graph, second: Graph, x: Tensor, weights: Tensor) -> Replay:
    """Run one input ``(1, *input_shape)`` through both networks."""
    a, b = first(x)[0].flatten(), second(x)[0].flatten()
    return Replay(x[0], a, b, float((b - a) @ weights))


def search(
    first: Graph,
    second: Graph,
    box: Box,
    weights: Tensor,
    starts: Tensor,
    target: float,
    *,
    steps: int = 60,
    children: int = 192,
    seed: int = 0,
    deadline: float | None = None,
) -> Replay:
    """Look for an input of the box where ``weights . (second - first)`` is at least ``target``.

    Args:
        box: one box (batch of 1).
        starts: inputs to start from, ``(n, *input_shape)``; moved to the nearest allowed one.
        steps: generations of ``children`` inputs; stops early at the target.
        deadline: of ``time.perf_counter``: anneal until then behind these generations; None: do not.

    Returns:
        The best input found, whether or not it reaches the target.
    """

    def score(x: Tensor) -> Tensor:
        return (second(x) - first(x)).flatten(1) @ weights

    best, value = climb(score, box, starts, target, steps=steps, children=children, seed=seed)
    if deadline is not None and value < target:
        left = deadline - time.perf_counter()
        best, _ = anneal(score, box, best, target, seconds=left, seed=seed)
    return replay(first, second, best, weights)


def climb(
    score: Callable[[Tensor], Tensor],
    box: Box,
    starts: Tensor,
    target: float,
    *,
    steps: int = 60,
    children: int = 192,
    seed: int = 0,
    deadline: float = float("inf"),
) -> tuple[Tensor, float]:
    """The (1 + lambda) strategy for any score of inputs, ``(batch, *input_shape)`` to ``(batch,)``.

    Args:
        deadline: of ``time.perf_counter``; the search ends there with the best so far.

    Returns:
        The best input found, ``(1, *input_shape)``, and its score.
    """
    generator = torch.Generator().manual_seed(seed)
    population = box.nearest(starts)
    scores = score(population)
    best, value = population[scores.argmax()][None], float(scores.max())
    size = best[0].numel()
    low, high = box.low.flatten(1), box.high.flatten(1)
    rate = 4.0
    for _ in range(steps):
        if value >= target or time.perf_counter() > deadline:
            break
        # Each child redraws about `rate` of the inputs, at random within the box.
        changed = torch.rand(children, size, generator=generator) < rate / size
        drawn = low + (high - low) * torch.rand(children, size, generator=generator, dtype=torch.float64)
        brood = torch.where(changed, drawn, best.flatten(1)).reshape(-1, *best.shape[1:])
        brood = box.nearest(brood)
        scores = score(brood)
        if float(scores.max()) > value:
            value, best = float(scores.max()), brood[scores.argmax()][None]
            rate = min(rate * 1.5, size / 2)
        else:
            rate = max(rate / 1.5, 1.0)
    return best, value
