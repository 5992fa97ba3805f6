"""Bounds of the difference between two modes of a network over boxes of inputs.

Differential reachability analysis after QEBVerif (Zhang et al., CAV 2023), batched over boxes.
Three published analyses and one of ours walk the two networks in lockstep; they differ in how
a value's own bounds and the difference's bounds are found where an activation reads the value:

=========  =========================================  ==========================================
method     a network's own bounds                     difference
=========  =========================================  ==========================================
naive      first: back-substitution (DeepPoly),       own bounds subtracted
           second: interval arithmetic
interval   interval arithmetic                        rules of :mod:`~.difference`
symbolic   back-substitution                          the two linear forms subtracted
joint      the tightest of both                       the tightest of all three
combined   all four run, and their intersection
=========  =========================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import and_
from typing import Literal, get_args

import torch

from quantizable.verify.box import Box
from quantizable.verify.execution import Execution, check_execution, widened
from quantizable.verify.graph import NONLINEAR, Graph, check_pair
from quantizable.verify.interval import Interval
from quantizable.verify.propagation import stage_difference
from quantizable.verify.reach import Reach

Method = Literal["naive", "interval", "symbolic", "joint", "combined"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class DifferenceBounds:
    """What is known of two networks over each box of a batch.

    Attributes:
        first, second: each network's own bounds, one interval per value of the graph.
        difference: bounds of second minus first, one interval per value.
    """

    first: list[Interval]
    second: list[Interval]
    difference: list[Interval]

    @property
    def output(self) -> Interval:
        """Bounds of the output difference, ``(batch, *output_shape)``."""
        return self.difference[-1]

    def __and__(self, other: DifferenceBounds) -> DifferenceBounds:
        return DifferenceBounds(
            *(
                [a & b for a, b in zip(mine, theirs, strict=True)]
                for mine, theirs in (
                    (self.first, other.first),
                    (self.second, other.second),
                    (self.difference, other.difference),
                )
            )
        )


def difference_bounds(
    first: Graph, second: Graph, box: Box, method: Method = "combined", execution: Execution = "real"
) -> DifferenceBounds:
    """Bound ``second(x) - first(x)`` for every ``x`` of each box.

    Args:
        first, second: two modes of one network (the same stages, other numbers).
        box: the inputs, in batch.
        method: see the module's table.
        execution: what runs the networks: ``"real"`` arithmetic, ``"float32"`` or the ``"integers"`` of the
            export, see :mod:`~quantizable.verify.execution`.

    Returns:
        Intervals that hold for every such execution (float64 rounding is accounted for).

    Raises:
        ValueError: an unknown method or execution, networks of different structure, or a box of another
            shape than the networks' input.
    """
    return mode_difference_bounds(first, {"": second}, box, method, execution)[""]


def mode_difference_bounds(
    first: Graph,
    others: Mapping[str, Graph],
    box: Box,
    method: Method = "combined",
    execution: Execution = "real",
) -> dict[str, DifferenceBounds]:
    """:func:`difference_bounds` of several modes against one, whose own bounds are shared."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; allowed are {', '.join(METHODS)}")
    check_execution(execution)
    if box.low.shape[1:] != first.input_shape:
        raise ValueError(
            f"the box has inputs of shape {tuple(box.low.shape[1:])}, "
            f"the network takes {tuple(first.input_shape)}"
        )
    for second in others.values():
        check_pair(first, second)
    runs = ("naive", "interval", "symbolic", "joint") if method == "combined" else (method,)

    @cache  # naive shares its bounds with symbolic (first network) and interval (second)
    def reach(name: str | None, own: str) -> Reach:
        found = Reach(first if name is None else others[name], box, own, execution)
        reaches.append(found)
        return found

    reaches: list[Reach] = []
    pairs: dict[tuple[str, str], Lockstep] = {}
    for run in runs:
        own1, own2 = ("symbolic", "interval") if run == "naive" else (run, run)
        for name in others:
            pairs[name, run] = Lockstep(reach(None, own1), reach(name, own2), run)
    # All networks go value by value, so that each one's linear forms live for one value only.
    for _ in first.nodes:
        for one in reaches:
            one.advance()
        for pair in pairs.values():
            pair.advance()
    return {name: reduce(and_, (pairs[name, run].found for run in runs)) for name in others}


class Lockstep:
    """Bounds of the difference of two networks, value by value after theirs.

    Args:
        first, second: the networks' own bounds.
        method: see the module's table.
    """

    def __init__(self, first: Reach, second: Reach, method: str) -> None:
        self.first, self.second, self.method = first, second, method
        zero = torch.zeros_like(first.box.low)
        self.difference = [Interval(zero, zero)]

    @property
    def found(self) -> DifferenceBounds:
        return DifferenceBounds(self.first.bounds, self.second.bounds, self.difference)

    def advance(self) -> None:
        """Bound the difference of the value that both networks have bounded last."""
        first, second, method = self.first, self.second, self.method
        value = len(self.difference)
        node, other = first.graph.nodes[value - 1], second.graph.nodes[value - 1]
        naive = second.bounds[value].minus(first.bounds[value])
        if method == "naive":
            self.difference.append(naive)
            return
        networks = (first, second)
        befores, afters = ([getattr(n, side)[value - 1] for n in networks] for side in ("before", "after"))
        own = [n.read[value - 1] for n in networks]
        moved = [reduce(widened, befores, self.difference[i]) for i in node.inputs]
        found = stage_difference(
            (node.stage, other.stage), moved, (own[0], own[1]), first.fan_in, both_ways=method == "joint"
        )
        found = reduce(widened, afters, found)
        if isinstance(node.stage, NONLINEAR):
            found = found & naive
        if method in ("symbolic", "joint") and value in first.refined:
            subtracted = first.subtract_from(second, self.difference)
            published = method == "symbolic" and not isinstance(node.stage, NONLINEAR)
            found = subtracted if published else found & subtracted & naive
        elif value == len(first.graph.nodes):
            found = found & naive
        self.difference.append(found)
