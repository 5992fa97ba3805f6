"""Which neurons matter: an estimate of how far each can move the output."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizable.verify.curves import Curve
from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import Interval
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import REARRANGING, Concat
from quantizable.verify.stages import Activation, Add, Conv2d


def influences(graph: Graph, own: list[Interval], weights: Tensor) -> dict[int, Tensor]:
    """For each activation node, an estimate of how much each neuron can move the output, ``(batch, n)``."""
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
            found[value - 1] = a.flatten(1)
            parts = [a * (own[value].low != own[value].high)]
        elif isinstance(stage, AFFINE):
            parts = [stage.absolute().adjoint(a, graph.shapes[node.inputs[0]])]
        elif isinstance(stage, Add):
            parts = [a, a]
        elif isinstance(stage, Concat):
            parts = stage.split(a, [graph.shapes[i] for i in node.inputs])
        elif isinstance(stage, Curve):
            parts = [a]
        elif isinstance(stage, MaxPool2d):
            parts = [_spread(stage, a, graph.shapes[node.inputs[0]])]
        else:
            assert isinstance(stage, REARRANGING)
            parts = [stage.adjoint(a, graph.shapes[node.inputs[0]])]
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    return found


def _spread(stage: MaxPool2d, a: Tensor, in_shape: torch.Size) -> Tensor:
    """To every input of a window, a share: any may be the largest."""
    share = 1 / (stage.kernel[0] * stage.kernel[1])
    weight = torch.full((in_shape[0], 1, *stage.kernel), share, dtype=torch.float64)
    mean = Conv2d(weight, weight[:, 0, 0, 0] * 0, stage.stride, stage.padding, groups=in_shape[0])
    return mean.adjoint(a, in_shape)
