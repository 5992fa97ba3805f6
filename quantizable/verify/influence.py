"""Which neurons matter: an estimate of how far each can move the output."""

from __future__ import annotations

from torch import Tensor

from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import Interval
from quantizable.verify.rearranging import REARRANGING, Concat
from quantizable.verify.stages import Activation, Add


def influences(graph: Graph, own: list[Interval], weights: Tensor) -> dict[int, Tensor]:
    """For each activation node, an estimate of how much each neuron can move the output."""
    last = len(graph.nodes)
    pending = {last: weights.abs().reshape(1, *graph.shapes[-1])}
    found: dict[int, Tensor] = {}
    for value in range(last, 0, -1):
        if value not in pending:
            continue
        a = pending.pop(value)
        node = graph.nodes[value - 1]
        stage = node.stage
        if isinstance(stage, Activation):
            found[value - 1] = a.flatten()
            moves = own[value].low[:1] != own[value].high[:1]
            parts = [a * moves]
        elif isinstance(stage, AFFINE):
            parts = [stage.absolute().adjoint(a, graph.shapes[node.inputs[0]])]
        elif isinstance(stage, Add):
            parts = [a, a]
        elif isinstance(stage, Concat):
            parts = stage.split(a, [graph.shapes[i] for i in node.inputs])
        else:
            assert isinstance(stage, REARRANGING)  # the program knows no others
            parts = [stage.adjoint(a, graph.shapes[node.inputs[0]])]
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    return found
