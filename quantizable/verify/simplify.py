"""Simplifications that keep the function and help the bounds.

Both depend on the structure only, never on the numbers, so that all modes of a network keep one
structure: a scale is folded into the linear layer before it, and a clamp into the rounding
after it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor

from quantizable.verify.graph import Graph, Node
from quantizable.verify.stages import Activation, Conv2d, Linear, Scale, Stage, largest_bias


def simplify(graph: Graph) -> Graph:
    """An equal network with fewer stages."""
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    nodes: list[Node] = []
    moved = {0: 0}  # index of each old value among the new ones
    for index, node in enumerate(graph.nodes):
        inputs = tuple(moved[i] for i in node.inputs)
        before = nodes[inputs[0] - 1] if inputs[0] > 0 else None
        merged = None
        # The last node is the one before only if nothing was merged away in between.
        if before is not None and readers[node.inputs[0]] == 1 and inputs[0] == len(nodes):
            merged = merge(before.stage, node.stage)
        if merged is not None and before is not None:
            nodes[-1] = Node(merged, before.inputs)
        else:
            nodes.append(Node(node.stage, inputs))
        moved[index + 1] = len(nodes)
    return Graph(nodes, graph.input_shape)


def merge(first: Stage, second: Stage) -> Stage | None:
    """One stage that does both, or None if there is none."""
    if isinstance(first, Linear | Conv2d) and isinstance(second, Scale):
        # a scale behind a linear layer's [tokens, channels] is one of the tokens
        fits = isinstance(first, Conv2d) or second.factor.ndim == 1
        return fold_scale(first, second) if fits else None
    if isinstance(first, Activation) and isinstance(second, Activation) and first.step == 0:
        return second.after(first)
    return None


def fold_scale(layer: Linear | Conv2d, scale: Scale) -> Linear | Conv2d:
    """A linear layer followed by a scale of its outputs, as one layer."""
    factor, bias = _per_output(scale.factor), _per_output(scale.bias)
    weight = layer.weight * factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
    size = largest_bias(layer) * factor.abs() + _per_output(largest_bias(scale))
    return replace(layer, weight=weight, bias=layer.bias * factor + bias, bias_size=size)


def _per_output(x: Tensor) -> Tensor:
    return x.flatten()
