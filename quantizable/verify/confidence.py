"""Class agreement where the first network is confident, and the error of every logit and margin.

Delta-top-1 (Teuber et al., Revisiting Differential Verification, 2024): wherever the first network gives its
class a probability of at least delta, the second one gives the same class. A softmax of at least delta means
that every margin of that class is at least ``log(delta / (1 - delta))``, since no other class can have more
than ``1 - delta``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from quantizable.verify.bounds import DifferenceBounds, Method, mode_difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph
from quantizable.verify.interval import Interval
from quantizable.verify.stages import Linear


@dataclass(frozen=True)
class ModeErrors:
    """How far a mode differs from the first one, over each box of a batch.

    Attributes:
        logits: ``(batch, classes)``.
        margins: of ``y_i - y_j``, ``(batch, classes, classes)``.
        first, second: both networks' own margins, ``(batch, classes, classes)``.
    """

    logits: Interval
    margins: Interval
    first: Interval
    second: Interval


def mode_errors(
    first: Graph,
    others: Mapping[str, Graph],
    box: Box,
    method: Method = "combined",
    execution: Execution = "real",
) -> dict[str, ModeErrors]:
    """Bounds of the error of each logit and of each margin, for all modes and boxes in one call.

    Args:
        first: usually the float mode; its bounds are computed once.
        others: the other modes by name.
        box: the inputs, in batch.
        method, execution: see :func:`~quantizable.verify.bounds.difference_bounds`.

    Raises:
        ValueError: a single output, or see ``difference_bounds``.
    """
    classes = check_classes(first)
    one = torch.eye(classes, dtype=torch.float64)
    weight = torch.cat([one, (one[:, None] - one).flatten(0, 1)])
    layer = Linear(weight, torch.zeros(len(weight), dtype=torch.float64))
    pairs = {name: graph.then(layer) for name, graph in others.items()}
    found = mode_difference_bounds(first.then(layer), pairs, box, method, execution)

    def margins(x: Interval) -> Interval:
        return Interval(*(side[:, classes:].reshape(-1, classes, classes) for side in x))

    def errors(bounds: DifferenceBounds) -> ModeErrors:
        logits = Interval(*(side[:, :classes] for side in bounds.output))
        row, column = (Interval(*(side.unsqueeze(axis) for side in logits)) for axis in (2, 1))
        own = map(margins, (bounds.first[-1], bounds.second[-1]))
        return ModeErrors(logits, margins(bounds.output) & row.minus(column), *own)

    return {name: errors(bounds) for name, bounds in found.items()}


def confident_margins(
    first: Graph,
    others: Mapping[str, Graph],
    box: Box,
    method: Method,
    confidence: float,
    execution: Execution,
) -> dict[str, list[tuple[float, float]]]:
    """Bounds of the second network's smallest margin where the first is confident, for each mode.

    The lower bound is ``inf`` where the first is confident nowhere in the box.
    """
    check_classes(first, box)
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} is not allowed; it must be from 0.5 to below 1")
    least = math.log(confidence / (1 - confidence)) * (1 - 1e-12) - 1e-12
    result = {}
    for name, found in mode_errors(first, others, box, method, execution).items():
        others_of = ~torch.eye(found.first.low.shape[1], dtype=torch.bool)
        # not ">=": a bound that overflowed to NaN rules nothing out
        possible = ~((found.first.high < least) & others_of).any(2)[0]  # of each class
        # a confident first network has margins of ``least`` at least
        carried = found.first.low.clamp(min=least) + found.margins.low - 1e-12 * found.margins.magnitude
        low = torch.maximum(found.second.low, carried).masked_fill(~others_of, torch.inf).amin(2)[0]
        high = found.second.high.masked_fill(~others_of, torch.inf).amin(2)[0]
        none = not bool(possible.any())
        result[name] = [
            (math.inf, math.inf) if none else (float(low[possible].min()), float(high[possible].min()))
        ]
    return result


def check_classes(graph: Graph, box: Box | None = None) -> int:
    """The number of classes; ``ValueError`` for a single one, and for more than one box."""
    classes = graph.shapes[-1].numel()
    if classes < 2 or (box is not None and len(box) != 1):
        count = 1 if box is None else len(box)
        raise ValueError(
            f"agreement is about two or more classes, not {classes}, and one box, not {count}; "
            "pass box[i : i + 1]"
        )
    return classes
