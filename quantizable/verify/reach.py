"""The bounds of one network's own values over boxes of inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from quantizable.verify.box import Box
from quantizable.verify.curve_bounds import relax_curve
from quantizable.verify.curves import Curve
from quantizable.verify.execution import errors_after, errors_before, widened
from quantizable.verify.graph import AFFINE, NONLINEAR, Graph
from quantizable.verify.interval import Interval, gamma, magnitude
from quantizable.verify.pool_bounds import relax_pool
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.propagation import stage_interval
from quantizable.verify.relaxation import relax
from quantizable.verify.stages import Activation, Add
from quantizable.verify.symbolic import Bounds, Form, upper_form
from quantizable.verify.windows import Rows, single_neurons

# Coefficients that the linear forms of one value may take for each box on their whole way, and those of the
# rows that go together. Where the way is longer it ends early, so that memory and time grow with the feature
# maps.
MOST_COEFFICIENTS = 2**24
MOST_AT_ONCE = 2**23
BESIDE = 2.0**-40  # of a tie, how far beside it the relaxations of a limited neuron end


class Reach:
    """Own bounds of the values of a network, found one after the other, and the linear forms behind them.

    Args:
        graph: the network.
        box: the inputs.
        method: ``"interval"`` for interval arithmetic alone, ``"symbolic"`` for
            back-substitution, ``"joint"`` for the intersection of both with tighter
            relaxations.
        execution: what runs the network, see :mod:`~quantizable.verify.execution`.
        limits: of some activation nodes, the part of the values they read that is looked at, ``(batch,
            *shape)``. The limit of one that rounds is a tie: below it, it takes the code below.

    Attributes:
        bounds: one interval per value so far, ``(batch, *shape)``.
        read: of each node so far, the interval of what it reads first.
        empty: the boxes in which nothing is within the limits, ``(batch,)``.
        before, after: of each node, how far the value that it rounds and its result may be from real
            arithmetic; None for not at all.
        refined: the values that have linear forms: the output, and those that a stage reads which is not
            linear, unless such a stage has made them (their interval is as tight then).
        fan_in: an upper bound of the number of products in one output of any stage.
    """

    def __init__(
        self,
        graph: Graph,
        box: Box,
        method: str,
        execution: str = "real",
        limits: Mapping[int, Interval] | None = None,
    ) -> None:
        self.graph, self.box, self.method, self.execution = graph, box, method, execution
        self.limits = limits or {}
        self.fan_in = max(shape.numel() for shape in graph.shapes)
        self.refined = set() if method == "interval" else self._worth_refining()
        self.empty = torch.zeros(len(box), dtype=torch.bool)
        self.bounds = [self._limited(0, Interval(box.low, box.high))]
        self.read: list[Interval] = []
        self.before: list[Tensor | None] = []
        self.after: list[Tensor | None] = []
        self._forms: list[Form] = []
        self._relaxations: dict[int, Bounds] = {}
        self._errors: dict[int, Tensor] = {}

    def advance(self) -> None:
        """Bound the next value."""
        index = len(self.bounds) - 1
        node = self.graph.nodes[index]
        self.before.append(errors_before(node.stage, self.bounds[node.inputs[0]], self.execution))
        inputs = [widened(self.bounds[i], self.before[index]) for i in node.inputs]
        inputs[0], moved = self._beside_ties(index, inputs[0])
        self.read.append(inputs[0])
        found = stage_interval(node.stage, *inputs, fan_in=self.fan_in)
        reads = self.graph.nodes[node.inputs[0] - 1].stage if node.inputs[0] > 0 else None
        self.after.append(errors_after(node.stage, inputs, found, reads, self.execution))
        found = widened(found, self.after[index])
        self._forms = []
        if self.refined:
            self._prepare(index, inputs, moved)
        if index + 1 in self.refined:
            self._forms = list(self._upper_forms(index + 1))
            plus, minus = self._of_neurons([form.maximum(self.bounds) for form in self._forms], index + 1)
            symbolic = Interval(-minus, plus)
            found = symbolic if self.method != "joint" else found & symbolic
        self.bounds.append(self._limited(index + 1, found))

    def finish(self) -> Reach:
        """Bound all values."""
        while len(self.bounds) < len(self.graph.shapes):
            self.advance()
        return self

    def subtract_from(self, second: Reach, difference: Sequence[Interval]) -> Interval:
        """Bounds of ``second``'s latest value minus this one's, from the subtracted linear forms.

        Args:
            difference: of all earlier values.
        """
        own = (self.bounds, second.bounds)
        highest = []
        for mine, theirs in zip(self._forms, second._forms, strict=True):
            half = mine.constant.shape[2] // 2
            plus, minus = slice(0, half), slice(half, 2 * half)
            high = theirs[plus].plus_maximum(mine[minus], own, difference)
            low = theirs[minus].plus_maximum(mine[plus], own, difference)
            highest.append(torch.cat(torch.broadcast_tensors(high, low), 2))
        high, low = self._of_neurons(highest, len(self.bounds) - 1)
        return Interval(-low, high)

    def upper_of(self, value: int, coefficients: Tensor) -> Form:
        """A linear form that is at least ``C v`` everywhere in the box, for a value that has been bounded.

        Args:
            coefficients: ``C``, ``(1, 1, rows, *shape)``.
        """
        rows = Rows(coefficients)
        return upper_form(self.graph, value, rows, self._relaxations, self._errors, MOST_COEFFICIENTS)

    def _worth_refining(self) -> set[int]:
        graph = self.graph
        exact = {index + 1 for index, node in enumerate(graph.nodes) if isinstance(node.stage, NONLINEAR)}
        return (graph.nonlinear_inputs - exact - {0}) | {len(graph.nodes)}

    def _upper_forms(self, value: int) -> Iterator[Form]:
        """Upper forms of ``+v`` and ``-v``, some places at a time."""
        shape = self.graph.shapes[value]
        rows = 2 * shape[0] if len(shape) == 3 else 2
        places = math.prod(shape[1:]) if len(shape) == 3 else shape.numel()
        most = MOST_COEFFICIENTS // (rows * places)
        largest, start = self.fan_in, 0
        while start < places:
            end = min(places, start + max(1, MOST_AT_ONCE // (largest * rows * len(self.box))))
            chosen = single_neurons(shape, slice(start, end))
            form = upper_form(self.graph, value, chosen, self._relaxations, self._errors, most)
            yield form
            largest, start = form.largest, end

    def _of_neurons(self, found: list[Tensor], value: int) -> tuple[Tensor, Tensor]:
        """What was found of ``+v`` and of ``-v``, two tensors in the shape of the value."""
        shape = self.graph.shapes[value]

        def joined(side: int) -> Tensor:
            halves = [part.chunk(2, 2)[side] for part in found]
            if len(shape) == 3:  # places, channels
                halves = [half.transpose(1, 2) for half in halves]
            batch = len(self.box)
            return torch.cat([half.expand(batch, *half.shape[1:]) for half in halves], 2).reshape(
                batch, *shape
            )

        return joined(0), joined(1)

    def _limited(self, value: int, found: Interval) -> Interval:
        """The part of a value that its readers are limited to."""
        for index, limit in self.limits.items():
            if self.graph.nodes[index].inputs[0] == value:
                found = found & limit
                self.empty |= (found.low > found.high).flatten(1).any(1)
                found = Interval(found.low, torch.maximum(found.low, found.high))
        return found

    def _beside_ties(self, index: int, x: Interval) -> tuple[Interval, Tensor | None]:
        """What a node reads without the ties it is limited by, and by how much that is less.

        A line over the rest is one of the whole, too, if it gives way by its slope times what was cut off.
        """
        stage = self.graph.nodes[index].stage
        if index not in self.limits or not isinstance(stage, Activation) or stage.step == 0:
            return x, None
        limit = self.limits[index]
        off = torch.where(x.low == limit.low, BESIDE * (limit.low.abs() + stage.step), 0.0)
        cut = torch.where(x.high == limit.high, BESIDE * (limit.high.abs() + stage.step), 0.0)
        fits = x.low + off < x.high - cut
        off, cut = off * fits, cut * fits
        return Interval(x.low + off, x.high - cut), torch.maximum(off, cut)

    def _prepare(self, index: int, inputs: list[Interval], moved: Tensor | None) -> None:
        """Linear bounds and rounding errors of a node."""
        tight = self.method == "joint"
        stage, x = self.graph.nodes[index].stage, inputs[0]
        size, steepest = None, torch.ones(())
        if isinstance(stage, Activation | Curve):
            lines = relax(stage, x, tight) if isinstance(stage, Activation) else relax_curve(stage, x)
            self._relaxations[index] = lines
            steepest = torch.maximum(lines.lower.slope.abs(), lines.upper.slope.abs())
            offsets = lines.lower.offset.abs() + lines.upper.offset.abs()
            size = steepest.clamp(min=1) * x.magnitude + offsets
        elif isinstance(stage, MaxPool2d):
            self._relaxations[index] = relax_pool(stage, x)
            size = stage(x.magnitude)
        elif isinstance(stage, AFFINE):
            size = magnitude(stage, x)
        elif isinstance(stage, Add):
            size = x.magnitude + inputs[1].magnitude
        if size is None:
            return
        # One factor for the whole walk: no sum in it has more terms than the largest value.
        error = 4 * gamma(self.fan_in) * size
        for reading in (self.before[index], moved):
            error = error if reading is None else error + steepest * reading
        after = self.after[index]
        self._errors[index] = error if after is None else error + after
