"""A network as a plain list of stages: what bounds, MILP and replay all read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from quantizable.verify.curves import Curve
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import Concat
from quantizable.verify.stages import Activation, Add, Conv2d, Linear, Scale, Stage

AFFINE = (Linear, Conv2d, Scale)
NONLINEAR = (Activation, Curve, MaxPool2d)
HOW = ("bias_size", "codes")  # what says how a function is computed, and not which


@dataclass(frozen=True)
class Node:
    """One stage and the values it reads; value 0 is the input, value ``i + 1`` node ``i``'s."""

    stage: Stage
    inputs: tuple[int, ...]


class Graph:
    """A feed-forward network in topological order; calling it evaluates it in float64.

    Args:
        nodes: stages with the indices of the values they read.
        input_shape: shape of one input, without the batch axis.

    Raises:
        ValueError: a weight or bias that is NaN or infinite.
    """

    def __init__(self, nodes: Sequence[Node], input_shape: Sequence[int]) -> None:
        self.nodes = tuple(nodes)
        self.input_shape = torch.Size(input_shape)
        for index, node in enumerate(self.nodes):
            for name, tensor in _tensors(node.stage):
                if not torch.isfinite(tensor).all():
                    raise ValueError(
                        f"stage {index} ({type(node.stage).__name__}) has a {name} that is NaN or "
                        "infinite; nothing can be proved about such a network: retrain or repair it"
                    )
        zero = torch.zeros(1, *self.input_shape, dtype=torch.float64)
        self.shapes = [value.shape[1:] for value in self.values(zero)]
        self._last_reader = {i: index for index, node in enumerate(self.nodes) for i in node.inputs}

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``(batch, *output_shape)`` of inputs ``(batch, *input_shape)``."""
        values = {0: x.to(torch.float64)}
        for index, node in enumerate(self.nodes):
            values[index + 1] = apply(node.stage, *(values[i] for i in node.inputs))
            for i in set(node.inputs):
                if self._last_reader[i] == index:
                    del values[i]
        return values[len(self.nodes)]

    def values(self, x: Tensor) -> list[Tensor]:
        """The input and every node's result."""
        values = [x.to(torch.float64)]
        for node in self.nodes:
            values.append(apply(node.stage, *(values[i] for i in node.inputs)))
        return values

    @property
    def nonlinear_inputs(self) -> set[int]:
        """Values that a stage reads which is not linear: where tight bounds pay."""
        return {node.inputs[0] for node in self.nodes if isinstance(node.stage, NONLINEAR)}

    @property
    def sha256(self) -> str:
        """Hash of all stages and numbers: equal graphs compute the same function."""
        digest = hashlib.sha256(repr(tuple(self.input_shape)).encode())
        for node in self.nodes:
            plain = [
                (f.name, getattr(node.stage, f.name))
                for f in fields(node.stage)
                if not isinstance(getattr(node.stage, f.name), Tensor) and f.name not in HOW
            ]
            digest.update(repr((type(node.stage).__name__, node.inputs, plain)).encode())
            for name, tensor in _tensors(node.stage):
                if name in HOW:
                    continue
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def then(self, stage: Stage) -> Graph:
        """This network followed by one more stage."""
        return Graph([*self.nodes, Node(stage, (len(self.nodes),))], self.input_shape)


def apply(stage: Stage, *inputs: Tensor) -> Tensor:
    """Evaluate one stage, in float64."""
    if isinstance(stage, AFFINE):
        return stage.multiply(inputs[0]) + stage.offset
    if isinstance(stage, Add | Concat):
        return stage(*inputs)
    return stage(inputs[0])


def chain(stages: Sequence[Stage], input_shape: Sequence[int]) -> Graph:
    """The network that applies ``stages`` one after the other."""
    return Graph([Node(stage, (i,)) for i, stage in enumerate(stages)], input_shape)


def check_pair(network: Graph, quantized: Graph) -> None:
    """Raise ``ValueError`` unless both networks have the same stages and shapes in lockstep."""

    def layout(graph: Graph) -> list[tuple[object, tuple[int, ...], torch.Size]]:
        return [
            (_kind(node.stage), node.inputs, shape)
            for node, shape in zip(graph.nodes, graph.shapes[1:], strict=True)
        ]

    if network.input_shape != quantized.input_shape or layout(network) != layout(quantized):
        raise ValueError(
            "the two networks differ in structure; difference bounds need two modes of one "
            "network: the same layers, shapes and connections, other numbers"
        )


def _kind(stage: Stage) -> object:
    """What two modes share of a stage: its class where they differ in numbers, else all of it."""
    return type(stage) if isinstance(stage, (*AFFINE, Activation)) else stage


def _tensors(stage: Stage) -> list[tuple[str, Tensor]]:
    pairs = ((f.name, getattr(stage, f.name)) for f in fields(stage))
    return [(name, value) for name, value in pairs if isinstance(value, Tensor)]
