"""Do two modes of a network give the same class everywhere in a box?

They do if both keep the class ``c`` that the first gives at the center: if all margins ``y_c - y_j`` of both
stay above 0. The second network's margins are bounded twice: by its own bounds, and by the first network's
margins plus the difference of the two. A box through which the first network's own decision boundary runs is
not proved this way, although the modes may agree on it; there the MILP asks about both networks at once
(:mod:`~quantizable.verify.class_program`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds, Method, mode_difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.class_program import agree_by_program
from quantizable.verify.confidence import check_classes, confident_margins
from quantizable.verify.decide import Verdict
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph
from quantizable.verify.integer_program import beyond_program
from quantizable.verify.interval import Interval
from quantizable.verify.refutation import disagrees
from quantizable.verify.replay import Replay, climb, replay
from quantizable.verify.robustness import decide_robustness, margin_layer


def decide_agreement(
    first: Graph,
    others: Mapping[str, Graph],
    box: Box,
    time_limit: float = 60.0,
    use_milp: bool = True,
    method: Method = "combined",
    *,
    execution: Execution = "real",
    confidence: float = 0.0,
    branch: bool = False,
) -> dict[str, Verdict]:
    """Prove or refute, for each of several modes, that it gives ``first``'s class everywhere in one box.

    Args:
        first: usually the float mode; its bounds are computed once.
        others: the other modes by name.
        box: one box (batch of 1).
        time_limit: seconds for each mode.
        use_milp: False stops after bounds and search.
        method: of the bounds, see :mod:`~quantizable.verify.bounds`.
        execution, branch: as for :func:`~quantizable.verify.decide.decide`.
        confidence: ask only of inputs for which the first network's softmax gives its class at least this
            probability; 0 or from 0.5 to below 1. See :mod:`~quantizable.verify.confidence`.

    Returns:
        A verdict for each mode. ``low`` and ``high`` bound the smallest margin of both networks over the box
        (of the second alone, where the first is confident);
        a counterexample holds both networks' outputs, and its ``value`` is by how much the second network
        prefers another class than the first's (0 for a tie).

    Raises:
        ValueError: more than one box, a single output, a confidence out of range, or see
            :func:`~quantizable.verify.bounds.difference_bounds`.
    """
    if confidence:
        sides = confident_margins(first, others, box, method, confidence, execution)
    else:
        found = margin_bounds(first, others, box, method, execution)
        sides = {
            name: [(float(m.low.min()), float(m.high.min())) for m in both] for name, both in found.items()
        }
    label = predicted(first, box)
    ways = {"execution": execution, "branch": branch}

    @cache  # once for all modes
    def first_keeps_its_class() -> bool:
        return decide_robustness(first, box, label, time_limit, use_milp, **ways).status == "proved"  # type: ignore[arg-type]

    verdicts = {}
    for name, second in others.items():
        start = time.perf_counter()
        own = [low for low, _ in sides[name]]
        high = min(high for _, high in sides[name])
        found_input, status, decided = None, "proved", "bounds"
        if not min(own) > 0:
            deadline = start + time_limit
            status, decided = "unknown", "search"
            found_input = find_disagreement(first, second, box, deadline, confidence=confidence)
            if found_input is not None and execution != "real":
                found_input = _in_every_run(first, second, box, found_input, execution)
            milp = use_milp and execution == "real" and not confidence
            if found_input is not None:
                status = "refuted"
            elif (milp or (branch and not confidence)) and (own[0] > 0 or first_keeps_its_class()):
                left = max(deadline - time.perf_counter(), 0.1)
                rest = decide_robustness(second, box, label, left, use_milp, **ways)  # type: ignore[arg-type]
                status, decided = ("proved" if rest.status == "proved" else "unknown"), rest.method
            if status == "unknown" and milp and not beyond_program(first):
                look = partial(find_disagreement, first, second, box, deadline, steps=200)
                status, decided, found_input = agree_by_program(first, second, box, look, deadline)
        seconds = time.perf_counter() - start
        verdicts[name] = Verdict(status, decided, min(own), high, seconds, found_input)  # type: ignore[arg-type]
    return verdicts


def margin_bounds(
    first: Graph,
    others: Mapping[str, Graph],
    box: Box,
    method: Method = "combined",
    execution: Execution = "real",
) -> dict[str, tuple[Interval, Interval]]:
    """Bounds of both networks' margins over one box, ``(1, classes - 1)``, for each of the other modes."""
    classes = check_classes(first, box)
    layer = margin_layer(classes, predicted(first, box))
    pairs = {name: graph.then(layer) for name, graph in others.items()}
    found = mode_difference_bounds(first.then(layer), pairs, box, method, execution)
    return {name: _own_margins(bounds) for name, bounds in found.items()}


def _in_every_run(
    first: Graph, second: Graph, box: Box, found: Replay, execution: Execution
) -> Replay | None:
    """A counterexample, if it is one in every run of the execution."""
    layer = margin_layer(first.shapes[-1].numel(), int(found.first.argmax()))
    return found if disagrees(first.then(layer), second.then(layer), box, found, execution) else None


def _own_margins(bounds: DifferenceBounds) -> tuple[Interval, Interval]:
    first, second = bounds.first[-1], bounds.second[-1]
    return first, second & first.plus(bounds.output)


def predicted(graph: Graph, box: Box) -> int:
    """The class at the center of a box (batch of 1)."""
    return int(graph(box.center).flatten().argmax())


def find_disagreement(
    first: Graph,
    second: Graph,
    box: Box,
    deadline: float = float("inf"),
    starts: Tensor | None = None,
    *,
    confidence: float = 0.0,
    steps: int = 60,
) -> Replay | None:
    """An input of the box to which the two networks give different classes, if the search finds one.

    Args:
        deadline: of ``time.perf_counter``.
        starts: inputs to start from, ``(n, *input_shape)``; None: the center.
        confidence: the first network's least softmax probability for its class, 0 to 1.
        steps: generations of the search at most.
    """

    def preference(x: Tensor) -> Tensor:
        """By how much the second network prefers another class than the first's, ``(batch,)``."""
        a, b = first(x).flatten(1), second(x).flatten(1)
        chosen = a.argmax(1, keepdim=True)
        others = b.scatter(1, chosen, -torch.inf).amax(1)
        missing = confidence - a.softmax(1).amax(1)
        return torch.where(missing <= 0, others - b.gather(1, chosen)[:, 0], -1e9 * (1 + missing))

    children = max(16, min(192, 2**19 // max(shape.numel() for shape in first.shapes)))
    starts = box.center if starts is None else starts
    x, value = climb(preference, box, starts, 0.0, steps=steps, children=children, deadline=deadline)
    a, b = first(x).argmax(), second(x).argmax()
    if not value >= 0 or a == b:  # at a tie both may still answer the same
        return None
    weights = torch.zeros(first.shapes[-1].numel(), dtype=torch.float64)
    return replace(replay(first, second, x, weights), value=value)


def largest_radius(
    boxes: Callable[[float], Box],
    first: Graph,
    others: Mapping[str, Graph],
    radius: float,
    steps: int = 8,
    method: Method = "combined",
    *,
    execution: Execution = "real",
) -> dict[str, float | None]:
    """The largest radius for which bounds prove that a mode agrees with ``first``, by bisection.

    Args:
        boxes: the box (batch of 1) of each radius.
        first, others: as for :func:`decide_agreement`; each radius bounds all modes in one call.
        radius: the largest that is tried.
        steps: the result is exact to ``radius / 2**steps``.
        method: of the bounds.
        execution: of the networks.

    Returns:
        For each mode a radius that is proved; None where not even radius 0 is.
    """

    @cache
    def proved(part: int) -> dict[str, bool]:
        margins = margin_bounds(first, others, boxes(radius * part / 2**steps), method, execution)
        return {name: all(bool((side.low > 0).all()) for side in both) for name, both in margins.items()}

    found: dict[str, float | None] = {}
    for name in others:
        good, bad = 0, 2**steps
        if not proved(good)[name]:
            found[name] = None
            continue
        if proved(bad)[name]:
            good = bad
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if proved(middle)[name] else (good, middle)
        found[name] = radius * good / 2**steps
    return found
