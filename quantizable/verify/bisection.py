"""Low-dimensional inputs: split the box until every part is decided.

With few inputs (up to about 10, sensors rather than pixels) a box may be wide, so that bounds
over all of it say nothing, while halving it a few times makes them tight.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from quantizable.verify.bounds import difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.decide import Verdict, check_query
from quantizable.verify.graph import Graph
from quantizable.verify.interval import Interval
from quantizable.verify.replay import Replay, replay

MOST_INPUTS = 16
BATCH = 256  # boxes bounded in one call


def bisect(
    first: Graph,
    second: Graph,
    box: Box,
    output: int,
    eps: float,
    time_limit: float = 60.0,
    smallest: float = 1e-6,
) -> Verdict:
    """Prove or refute ``|second(x)[output] - first(x)[output]| < eps`` by splitting the box.

    Each round bounds up to 256 parts in one batch, tries their centers as counterexamples, drops
    the proved ones and halves the others along the input whose width, times how much the
    difference changes along it, is largest.

    Args:
        box: one box (batch of 1) of at most 16 inputs, of real numbers.
        output, eps, time_limit: as for :func:`~quantizable.verify.decide.decide`.
        smallest: parts narrower than this fraction of the box are not split further.

    Returns:
        A verdict whose ``low`` and ``high`` bound the difference over the whole box: the hull of
        the parts.

    Raises:
        ValueError: as for ``decide``; also too many inputs, or whole-number inputs.
    """
    check_query(first, box, output, eps)
    inputs = first.input_shape.numel()
    if inputs > MOST_INPUTS or box.integer:
        raise ValueError(
            f"bisection takes at most {MOST_INPUTS} real inputs, not {inputs}"
            f"{' whole numbers' if box.integer else ''}; use decide instead"
        )
    start = time.perf_counter()
    floor = (box.high - box.low) * smallest
    whole = _bounds(first, second, box, output)
    # Parts still open, and the hull of those that are closed.
    parts, open_bounds = box, whole
    low, high = float("inf"), -float("inf")
    found: Replay | None = None
    status = "proved"
    while len(parts):
        bad = ~((open_bounds.high < eps) & (open_bounds.low > -eps))  # NaN, too, is no proof
        if (~bad).any():
            low = min(low, float(open_bounds.low[~bad].min()))
            high = max(high, float(open_bounds.high[~bad].max()))
        if not bad.any():
            break
        parts, open_bounds = _take(parts, bad), Interval(*(side[bad] for side in open_bounds))
        found = _counterexample(first, second, parts, output, eps)
        tiny = ((parts.high - parts.low) <= floor).flatten(1).all(1)
        if found is not None or tiny.any() or time.perf_counter() - start > time_limit:
            status = "refuted" if found is not None else "unknown"
            low = min(low, float(open_bounds.low.min()))
            high = max(high, float(open_bounds.high.max()))
            break
        parts = _halve(parts, _slopes(first, second, parts, output))
        open_bounds = _bounds(first, second, parts, output)
    seconds = time.perf_counter() - start
    return Verdict(status, "bisection", low, high, seconds, found)  # type: ignore[arg-type]


def _bounds(first: Graph, second: Graph, parts: Box, output: int) -> Interval:
    """Bounds of the output's difference over each part, ``(parts,)``."""
    pieces = [
        difference_bounds(first, second, parts[i : i + BATCH], "joint").output
        for i in range(0, len(parts), BATCH)
    ]
    return Interval(*(torch.cat([p[s].flatten(1)[:, output] for p in pieces]) for s in (0, 1)))


def _counterexample(first: Graph, second: Graph, parts: Box, output: int, eps: float) -> Replay | None:
    x = parts.center
    difference = (second(x) - first(x)).flatten(1)[:, output]
    worst = int(difference.abs().argmax())
    if not abs(float(difference[worst])) >= eps:
        return None
    weights = torch.zeros(first.shapes[-1].numel(), dtype=torch.float64)
    weights[output] = 1.0 if difference[worst] > 0 else -1.0
    return replay(first, second, x[worst : worst + 1], weights)


def _slopes(first: Graph, second: Graph, parts: Box, output: int) -> Tensor:
    """How much the two networks change across each input of each part, ``(parts, inputs)``."""
    low, high = parts.low.flatten(1), parts.high.flatten(1)
    center = parts.center.flatten(1)
    moved = []
    for i in range(low.shape[1]):
        ends = []
        for side in (low, high):
            x = center.clone()
            x[:, i] = side[:, i]
            shaped = x.reshape(parts.low.shape)
            ends.append([graph(shaped).flatten(1)[:, output] for graph in (first, second)])
        moved.append(sum((a - b).abs() for a, b in zip(*ends, strict=True)))
    return torch.stack(moved, 1) + 1e-3 * (high - low) / (high - low).amax(1, keepdim=True)


def _halve(parts: Box, slopes: Tensor) -> Box:
    """Both halves of every part, split along the input with the largest slope."""
    axis = slopes.argmax(1, keepdim=True)
    low, high = parts.low.flatten(1), parts.high.flatten(1)
    middle = (low.gather(1, axis) + high.gather(1, axis)) / 2
    lower_high, upper_low = high.scatter(1, axis, middle), low.scatter(1, axis, middle)
    shape = parts.low.shape[1:]
    return Box(
        torch.cat([low, upper_low]).reshape(-1, *shape),
        torch.cat([lower_high, high]).reshape(-1, *shape),
    )


def _take(parts: Box, keep: Tensor) -> Box:
    return Box(parts.low[keep], parts.high[keep], parts.integer)
