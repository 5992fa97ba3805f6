"""Branch and bound over undecided neurons: split what one of them reads, bound both parts, and go on.

Bounds are the engine: many parts are bounded in one batch. A neuron is split where its activation bends, or
at a tie of its grid. The one is taken whose relaxation is widest, times how far it can move the output. A
part whose neurons are nearly all decided goes to the mixed-integer program, and at the end all that are open.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds, Lockstep
from quantizable.verify.box import Box
from quantizable.verify.graph import Graph
from quantizable.verify.influence import influences
from quantizable.verify.integer_program import Status, by_program
from quantizable.verify.interval import Interval, rounded
from quantizable.verify.reach import Reach
from quantizable.verify.relaxation import relax
from quantizable.verify.replay import Replay, replay
from quantizable.verify.stages import Activation

TOGETHER = 32  # parts that are bounded in one batch
FEW = 16  # undecided neurons with which a part is left to the program
SHARE = 0.5  # of the time for bounds; the rest is for the program


@dataclass(frozen=True, order=True)
class Split:
    """One neuron's value limited to one side of a number.

    Attributes:
        network: 0 for the first, 1 for the second.
        node: an activation of it; neuron: flat index into what it reads.
        at: the number; above: on which side.
    """

    network: int
    node: int
    neuron: int
    at: float
    above: bool


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        status: ``proved``, ``refuted`` with the input ``found``, or ``unknown``.
        parts: how many were bounded; leaves: how many of them went to the program.
    """

    status: Status
    parts: int
    leaves: int = 0
    found: Replay | None = None


@dataclass(frozen=True)
class Bounded:
    """Some parts after they were bounded: how far the quantity can go in each, where to split it next (None:
    all is decided), how many neurons are undecided, and the input that looks worst."""

    upper: Tensor
    bounds: DifferenceBounds
    splits: list[tuple[int, int, int, float] | None]
    undecided: Tensor
    worst: Tensor


class Tree:
    """The parts of one question: can ``weights . (second - first)`` reach ``target`` in the box?

    Args:
        first, second: the networks.
        box: one box (batch of 1).
        weights: ``(outputs,)``.
        target: see above.
        execution: of the networks, see :mod:`~quantizable.verify.execution`.
    """

    def __init__(
        self, first: Graph, second: Graph, box: Box, weights: Tensor, target: float, execution: str = "real"
    ) -> None:
        self.graphs, self.box, self.weights, self.target = (first, second), box, weights, target
        self.execution = execution
        self.parts = self.leaves = 0

    def search(self, deadline: float, use_milp: bool = True) -> Outcome:
        """Prove or refute by ``deadline`` (of ``time.perf_counter``)."""
        first, second = self.graphs
        start = time.perf_counter()
        switch = start + SHARE * (deadline - start) if use_milp else deadline
        open_: list[tuple[float, tuple[Split, ...]]] = [(-torch.inf, ())]
        left: list[tuple[Split, ...]] = []
        while open_ and time.perf_counter() < switch:
            batch = [heapq.heappop(open_)[1] for _ in range(min(TOGETHER, len(open_)))]
            known = self.bound(batch)
            values = (second(known.worst) - first(known.worst)).flatten(1) @ self.weights
            best = int(values.argmax())
            if float(values[best]) >= self.target:
                found = replay(first, second, known.worst[best : best + 1], self.weights)
                return Outcome("refuted", self.parts, self.leaves, found)
            for i, splits in enumerate(batch):
                if float(known.upper[i]) < self.target:  # NaN, too, is no proof
                    continue
                chosen = known.splits[i]
                if chosen is None or (use_milp and int(known.undecided[i]) <= FEW):
                    left.append(splits)
                    continue
                for above in (False, True):
                    heapq.heappush(open_, (-float(known.upper[i]), (*splits, Split(*chosen, above))))
        left += [splits for _, splits in open_]
        if not left:
            return Outcome("proved", self.parts, self.leaves)
        return self._by_program(left, deadline) if use_milp else Outcome("unknown", self.parts)

    def bound(self, batch: Sequence[tuple[Split, ...]]) -> Bounded:
        """Bound some parts in one batch."""
        self.parts += len(batch)
        box, void = self._box(batch)
        reaches = [
            Reach(graph, box, "joint", self.execution, self._limits(which, batch))
            for which, graph in enumerate(self.graphs)
        ]
        pair = Lockstep(reaches[0], reaches[1], "joint")
        for _ in self.graphs[0].nodes:
            for one in reaches:
                one.advance()
            pair.advance()
        bounds = pair.found
        low, high = (side.flatten(1) for side in bounds.output)
        upper = torch.where(self.weights > 0, high * self.weights, low * self.weights)
        total = upper.masked_fill(self.weights == 0, 0.0).sum(1)
        total = torch.where(void | reaches[0].empty | reaches[1].empty, -torch.inf, total)
        splits, undecided = self._choices(reaches)
        return Bounded(total, bounds, splits, undecided, self.box.nearest(self._worst(reaches, box)))

    def _worst(self, reaches: list[Reach], box: Box) -> Tensor:
        """The corner of each part where the linear form of the quantity is largest."""
        if not reaches[0].refined:  # single inputs, see is_exact
            return box.center
        value = len(self.graphs[0].nodes)
        rows = self.weights.reshape(1, 1, 1, *self.graphs[0].shapes[-1])
        forms = [reach.upper_of(value, sign * rows) for reach, sign in zip(reaches, (-1.0, 1.0), strict=True)]
        found = (forms[0] + forms[1]).maximizer(box)[:, 0]
        return found.expand(len(box), *found.shape[1:])

    def _box(self, batch: Sequence[tuple[Split, ...]]) -> tuple[Box, Tensor]:
        """The part of the box that each one's splits of inputs leave, and whether nothing is left."""
        low, high = (
            side.repeat(len(batch), *[1] * (side.ndim - 1)) for side in (self.box.low, self.box.high)
        )
        for i, splits in enumerate(batch):
            for split in splits:
                if self.graphs[split.network].nodes[split.node].inputs[0] == 0:
                    side, choose = (low, max) if split.above else (high, min)
                    entries = side[i].view(-1)
                    entries[split.neuron] = choose(float(entries[split.neuron]), split.at)
        if self.box.integer:
            low, high = low.ceil(), high.floor()
        return Box(low.minimum(high), high, self.box.integer), (low > high).flatten(1).any(1)

    def _limits(self, which: int, batch: Sequence[tuple[Split, ...]]) -> Mapping[int, Interval]:
        graph = self.graphs[which]
        limits: dict[int, Interval] = {}
        for i, splits in enumerate(batch):
            for split in splits:
                if split.network != which:
                    continue
                if split.node not in limits:
                    shape = (len(batch), *graph.shapes[graph.nodes[split.node].inputs[0]])
                    limits[split.node] = Interval(
                        torch.full(shape, -torch.inf, dtype=torch.float64),
                        torch.full(shape, torch.inf, dtype=torch.float64),
                    )
                low, high = (side[i].view(-1) for side in limits[split.node])
                if split.above:
                    low[split.neuron] = max(float(low[split.neuron]), split.at)
                else:
                    high[split.neuron] = min(float(high[split.neuron]), split.at)
        return limits

    def _choices(self, reaches: list[Reach]) -> tuple[list[tuple[int, int, int, float] | None], Tensor]:
        """The neuron to split in each part, and how many are undecided."""
        batch = len(reaches[0].box)
        best = torch.zeros(batch, dtype=torch.float64)
        chosen: list[tuple[int, int, int, float] | None] = [None] * batch
        undecided = torch.zeros(batch, dtype=torch.long)
        for which, (graph, known) in enumerate(zip(self.graphs, reaches, strict=True)):
            effects = influences(graph, known.bounds, self.weights)
            for node, effect in effects.items():
                stage, x = graph.nodes[node].stage, known.read[node]
                assert isinstance(stage, Activation)
                at, open_ = where_to_split(stage, x)
                undecided += open_.flatten(1).sum(1)
                score = (effect * gap(stage, x).flatten(1)).masked_fill(~open_.flatten(1), 0.0)
                most, neuron = score.max(1)
                for i in (most > best).nonzero()[:, 0].tolist():
                    best[i] = most[i]
                    chosen[i] = (which, node, int(neuron[i]), float(at[i].flatten()[neuron[i]]))
        return chosen, undecided

    def _by_program(self, left: list[tuple[Split, ...]], deadline: float) -> Outcome:
        """Ask the mixed-integer program about each part that is open."""
        first, second = self.graphs
        open_ = False
        for i, splits in enumerate(left):
            now = time.perf_counter()
            if now > deadline:
                return Outcome("unknown", self.parts, self.leaves)
            known = self.bound([splits])
            if float(known.upper[0]) < self.target:
                continue
            self.leaves += 1
            until = now + (deadline - now) / (len(left) - i)
            status, _, found = by_program(
                first, second, self._box([splits])[0], known.bounds, self.weights, self.target, until
            )
            if status == "refuted":
                return Outcome("refuted", self.parts, self.leaves, found)
            open_ |= status != "proved"
        return Outcome("unknown" if open_ else "proved", self.parts, self.leaves)


def where_to_split(stage: Activation, x: Interval) -> tuple[Tensor, Tensor]:
    """The number at which to split each neuron, and whether it is undecided: two in the shape of ``x``.

    One that crosses a clamp is split there, any other at the tie nearest to its middle.
    """
    r = rounded(stage, x)
    below, above = (r.low < stage.low) & (r.high > stage.low), (r.low < stage.high) & (r.high > stage.high)
    if stage.step == 0:
        at = torch.where(below, stage.low, stage.high)
        return at, below | above
    open_ = stage.clamp(r.low) < stage.clamp(r.high)
    middle = (x.low + x.high) / 2
    middle = torch.where(above, stage.high - stage.step / 2, middle)
    middle = torch.where(below, stage.low + stage.step / 2, middle)
    code = (middle / stage.step + stage.zero_point).floor()
    lowest, highest = ((limit / stage.step + stage.zero_point) for limit in (stage.low, stage.high))
    at = stage.value(code.clamp(round(lowest), round(highest) - 1) + 0.5)
    return at, open_ & (x.low < at) & (at < x.high)


def gap(stage: Activation, x: Interval) -> Tensor:
    """How far apart the lines of an activation are in the middle of its interval."""
    lines = relax(stage, x, tight=True)
    middle = (x.low + x.high) / 2
    slope = lines.upper.slope - lines.lower.slope
    return slope * middle + lines.upper.offset - lines.lower.offset
