"""The bounds of one network's own values over boxes of inputs."""

from __future__ import annotations

import torch

from quantizable.verify.box import Box
from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import Interval, magnitude, stage_interval
from quantizable.verify.relaxation import Relaxation, relax
from quantizable.verify.stages import Activation, Add
from quantizable.verify.symbolic import Form, both_signs, upper_form


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
        refined: the values that have linear forms: those an activation reads, and the output.
        fan_in: an upper bound of the number of products in one output of any stage.
    """

    def __init__(self, graph: Graph, box: Box, method: str) -> None:
        self.graph, self.box = graph, box
        self.fan_in = max(shape.numel() for shape in graph.shapes)
        last = len(graph.nodes)
        self.refined = set() if method == "interval" else graph.nonlinear_inputs - {0} | {last}
        self.bounds = [Interval(box.low, box.high)]
        self._forms: dict[int, Form] = {}
        self._relaxations: dict[int, Relaxation] = {}
        self._magnitudes: dict[int, torch.Tensor] = {}
        for index, node in enumerate(graph.nodes):
            inputs = [self.bounds[i] for i in node.inputs]
            found = stage_interval(node.stage, *inputs, fan_in=self.fan_in)
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

    def _back_substitute(self, value: int) -> Interval:
        shape = self.graph.shapes[value]
        rows = both_signs(shape.numel()).reshape(1, -1, *shape)
        form = upper_form(self.graph, value, rows, self._relaxations, self._magnitudes)
        self._forms[value] = form
        high, low = form.maximum(self.box).chunk(2, dim=1)
        return self._shaped(-low, high, value)

    def _shaped(self, low: torch.Tensor, high: torch.Tensor, value: int) -> Interval:
        shape = (len(self.box), *self.graph.shapes[value])
        return Interval(low.reshape(shape), high.reshape(shape))

    def _prepare(self, index: int, inputs: list[Interval], tight: bool) -> None:
        """Linear bounds and rounding-error scale of a node."""
        stage = self.graph.nodes[index].stage
        if isinstance(stage, Activation):
            lines = relax(stage, inputs[0], tight)
            self._relaxations[index] = lines
            offsets = lines.lower.offset.abs() + lines.upper.offset.abs()
            self._magnitudes[index] = inputs[0].magnitude + offsets
        elif isinstance(stage, AFFINE):
            self._magnitudes[index] = magnitude(stage, inputs[0])
        elif isinstance(stage, Add):
            self._magnitudes[index] = inputs[0].magnitude + inputs[1].magnitude
