"""Class agreement by the mixed-integer program: can one network answer i and the other prefer a class j?

Both margins are in one program on one input, so that it decides also where the class changes in both
networks, at places that are not quite the same.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds, difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.graph import Graph
from quantizable.verify.integer_program import Status, in_rounds, influence_of, pair_program
from quantizable.verify.interval import Interval
from quantizable.verify.replay import Replay
from quantizable.verify.robustness import margin_layer

if TYPE_CHECKING:
    from quantizable.verify.milp import Neuron, PairProgram


def agree_by_program(
    first: Graph,
    second: Graph,
    box: Box,
    look: Callable[[Tensor], Replay | None],
    deadline: float,
) -> tuple[Status, str, Replay | None]:
    """Do both networks give one class at each input of one box?

    Args:
        look: searches around inputs for one to which the networks give different classes.
        deadline: of ``time.perf_counter``, for all pairs of classes together.

    Returns:
        The status, the method that decided last, and the counterexample if refuted.
    """
    bounds = difference_bounds(first, second, box)
    own, other = possible(bounds.first[-1]), possible(bounds.second[-1])
    method = "bounds"
    for classes in [(i, j) for i in own for j in other if i != j]:
        status, method, found = _prefers(first, second, box, bounds, classes, look, deadline)
        if status != "proved":
            return status, method, found
    return "proved", method, None


def possible(outputs: Interval) -> list[int]:
    """The classes that can have the largest output, by the bounds of one box, ``(1, classes)``."""
    low, high = (side.flatten() for side in outputs)
    return [int(i) for i in (high >= low.max()).nonzero()]


def _prefers(
    first: Graph,
    second: Graph,
    box: Box,
    bounds: DifferenceBounds,
    classes: tuple[int, int],
    look: Callable[[Tensor], Replay | None],
    deadline: float,
) -> tuple[Status, str, Replay | None]:
    """Can the second network prefer class j to class i where the first gives i?"""
    i, j = classes
    count = first.shapes[-1].numel()
    weights = torch.zeros(count, dtype=torch.float64)
    weights[i], weights[j] = -1.0, 1.0
    conditions = margin_layer(count, i).weight
    influence = influence_of(
        (first, bounds.first, conditions.abs().amax(0)), (second, bounds.second, weights)
    )

    def program(exact: Set[Neuron]) -> PairProgram:
        return pair_program()(
            first, second, box, bounds, exact, weights,
            first_weights=torch.zeros_like(weights), conditions=conditions,
        )  # fmt: skip

    return in_rounds(program, influence, 0.0, look, deadline)
