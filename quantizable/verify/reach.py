"""The bounds of one network's own values over boxes of inputs."""

from __future__ import annotations

import torch

from quantizable.verify.box import Box
from quantizable.verify.curve_bounds import relax_curve
from quantizable.verify.curves import Curve
from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import Interval, magnitude
from quantizable.verify.pool_bounds import relax_pool
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.propagation import stage_interval
from quantizable.verify.relaxation import relax
from quantizable.verify.stages import Activation, Add
from quantizable.verify.symbolic import Bounds, Form, signed_rows, upper_form

# Numbers that the linear forms of one value may have for each box (float64: 64 MiB), and those of one pass
# towards the input. Values with more are bounded by interval arithmetic and the difference rules, so that
# memory and time grow with the feature maps.
MOST_COEFFICIENTS = 2**23
MOST_AT_ONCE = 2**24


class Reach:
    """Own bounds of every value of a network, and the linear forms behind them.

    Args:
        graph: the network.
        box: the inputs.
        method: ``"interval"`` for interval arithmetic alone, ``"symbolic"`` for
            back-substitution, ``"joint"`` for the intersection of both with tighter
            relaxations.

    Attributes:
        bounds: one interval per value, ``(batch, *shape)``.
        refined: the values that have linear forms: those that a stage reads which is not linear, where their
            forms fit into memory, and the output.
        fan_in: an upper bound of the number of products in one output of any stage.
    """

    def __init__(self, graph: Graph, box: Box, method: str) -> None:
        self.graph, self.box = graph, box
        self.fan_in = max(shape.numel() for shape in graph.shapes)
        self.refined = set() if method == "interval" else self._worth_refining()
        self.bounds = [Interval(box.low, box.high)]
        self._forms: dict[int, Form] = {}
        self._relaxations: dict[int, Bounds] = {}
        self._magnitudes: dict[int, torch.Tensor] = {}
        for index, node in enumerate(graph.nodes):
            inputs = [self.bounds[i] for i in node.inputs]
            found = stage_interval(node.stage, *inputs, fan_in=self.fan_in)
            if self.refined:
                self._prepare(index, inputs, tight=method == "joint")
            if index + 1 in self.refined:
                symbolic = self._back_substitute(index + 1)
                found = symbolic if method != "joint" else found & symbolic
            self.bounds.append(found)

    def subtract_from(self, second: Reach, value: int) -> Interval:
        """Bounds of ``second``'s value minus this one's, from the subtracted linear forms."""
        size = self.graph.shapes[value].numel()
        plus, minus = slice(0, size), slice(size, 2 * size)
        mine, theirs = self._forms[value], second._forms[value]
        high = (theirs.rows(plus) + mine.rows(minus)).maximum(self.box)
        low = -(theirs.rows(minus) + mine.rows(plus)).maximum(self.box)
        return self._shaped(low, high, value)

    def form(self, value: int) -> Form:
        """Upper forms of ``+v`` and then of ``-v``, for a refined value ``v``."""
        return self._forms[value]

    def _worth_refining(self) -> set[int]:
        graph = self.graph
        row = graph.input_shape.numel()
        fits = {
            value
            for value in graph.nonlinear_inputs - {0}
            if 2 * graph.shapes[value].numel() * row <= MOST_COEFFICIENTS
        }
        return fits | {len(graph.nodes)}

    def _back_substitute(self, value: int) -> Interval:
        shape = self.graph.shapes[value]
        rows = 2 * shape.numel()
        at_once = max(1, MOST_AT_ONCE // (self.fan_in * len(self.box)))
        parts = [
            upper_form(
                self.graph,
                value,
                signed_rows(shape, start, min(start + at_once, rows)),
                self._relaxations,
                self._magnitudes,
            )
            for start in range(0, rows, at_once)
        ]
        form = Form.of_rows(parts)
        self._forms[value] = form
        high, low = form.maximum(self.box).chunk(2, dim=1)
        return self._shaped(-low, high, value)

    def _shaped(self, low: torch.Tensor, high: torch.Tensor, value: int) -> Interval:
        shape = (len(self.box), *self.graph.shapes[value])
        return Interval(low.reshape(shape), high.reshape(shape))

    def _prepare(self, index: int, inputs: list[Interval], tight: bool) -> None:
        """Linear bounds and rounding-error scale of a node."""
        stage, x = self.graph.nodes[index].stage, inputs[0]
        if isinstance(stage, Activation | Curve):
            lines = relax(stage, x, tight) if isinstance(stage, Activation) else relax_curve(stage, x)
            self._relaxations[index] = lines
            steepest = torch.maximum(lines.lower.slope.abs(), lines.upper.slope.abs())
            offsets = lines.lower.offset.abs() + lines.upper.offset.abs()
            self._magnitudes[index] = steepest.clamp(min=1) * x.magnitude + offsets
        elif isinstance(stage, MaxPool2d):
            self._relaxations[index] = relax_pool(stage, x)
            self._magnitudes[index] = stage(x.magnitude)
        elif isinstance(stage, AFFINE):
            self._magnitudes[index] = magnitude(stage, x)
        elif isinstance(stage, Add):
            self._magnitudes[index] = x.magnitude + inputs[1].magnitude
