"""Simulated annealing over a box: a search for as long as there is time.

Metropolis steps of several chains that change one to three inputs each, most of which go to an end of their
range; the temperature falls linearly to zero at the deadline (Kirkpatrick, Gelatt and Vecchi, Science 220,
1983). Quantized networks have a local optimum at every code: a strategy that only climbs stays in one, and
gradients say little there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from quantizable.verify.box import Box

CHAINS = 8  # each step has all of them in one batch: few chains take more steps
MOST_CHANGED = 3  # inputs in one step
AT_AN_END = 0.7  # of the changes: where piecewise linear functions have their maxima
TRIED = 64  # changes of one input that say what a usual one is
HOT = 0.2  # first temperature, in usual changes of the score


def anneal(
    score: Callable[[Tensor], Tensor],
    box: Box,
    start: Tensor,
    target: float,
    *,
    seconds: float,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """Look for an input whose score is at least ``target``.

    Args:
        score: of inputs, ``(batch, *input_shape)`` to ``(batch,)``.
        box: one box (batch of 1).
        start: one of its inputs, ``(1, *input_shape)``.
        seconds: how long; it ends earlier at the target.
        seed: of the changes; how many there are depends on the time.

    Returns:
        The best input found, ``(1, *input_shape)``, and its score.
    """
    generator = torch.Generator().manual_seed(seed)

    def scores(x: Tensor) -> Tensor:
        return score(x.reshape(-1, *start.shape[1:]))

    x = start.flatten(1).repeat(CHAINS, 1)
    value = scores(x)
    first, usual = float(value[0]), 0.0
    for _ in range(TRIED // CHAINS):
        usual += float((scores(_changed(x, box, 1, generator)) - first).abs().sum()) / TRIED
    best, highest = x[:1], first
    begun = time.perf_counter()
    while highest < target and (spent := time.perf_counter() - begun) < seconds:
        temperature = HOT * usual * (1 - spent / seconds)
        count = int(torch.randint(1, MOST_CHANGED + 1, (), generator=generator))
        new = _changed(x, box, count, generator)
        found = scores(new)
        luck = torch.rand(CHAINS, generator=generator, dtype=torch.float64)
        taken = found >= value + temperature * luck.log()
        x, value = torch.where(taken[:, None], new, x), torch.where(taken, found, value)
        if float(value.max()) > highest:
            highest, best = float(value.max()), x[value.argmax()][None]
    return best.reshape(start.shape), highest


def _changed(x: Tensor, box: Box, count: int, generator: torch.Generator) -> Tensor:
    """Copies of the flat inputs with ``count`` entries of each drawn anew."""
    chains, size = x.shape
    where = torch.randint(size, (chains, count), generator=generator)
    draw, place = torch.rand(2, chains, count, generator=generator, dtype=torch.float64)
    place = torch.where(draw < AT_AN_END, (draw < AT_AN_END / 2).double(), place)
    low, high = box.low.flatten()[where], box.high.flatten()[where]
    new = (low + (high - low) * place).clamp(low, high)  # float64 may round past an end
    return x.scatter(1, where, new.round() if box.integer else new)
