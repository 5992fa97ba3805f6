"""Lines of inputs: one image made brighter or given more contrast, as a network of one number.

Along a line all pixels depend on one parameter ``t``: ``clamp(start + t direction)``. Placed before a network
as affine stages, this dependence is exact in every analysis, while a box would let each pixel move alone. The
line is cut into halves until each part is decided.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantizable.verify.bounds import Method
from quantizable.verify.box import Box
from quantizable.verify.confidence import mode_errors
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph, Node
from quantizable.verify.rearranging import Unflatten
from quantizable.verify.stages import Activation, Linear, Scale, Stage

TOGETHER = 16  # parts that are bounded in one call


@dataclass(frozen=True)
class Line:
    """``clamp(start + t * direction, 0, 1)`` in units of pixels.

    Attributes:
        start, direction: images, ``input_shape``.
    """

    start: Tensor
    direction: Tensor

    @classmethod
    def of(cls, kind: Literal["brightness", "contrast"], pixels: Tensor) -> Line:
        """A line of images: ``brightness`` adds ``t`` to every pixel; ``contrast`` multiplies its distance
        from the image's mean by ``1 + t``.

        Args:
            pixels: one image in [0, 1], ``input_shape``.
        """
        pixels = pixels.double()
        if kind not in ("brightness", "contrast"):
            raise ValueError(f"unknown line {kind!r}; allowed are brightness, contrast")
        direction = torch.ones_like(pixels) if kind == "brightness" else pixels - pixels.mean()
        return cls(pixels, direction)

    def at(self, t: Tensor) -> Tensor:
        """The images at parameters ``(n,)``, ``(n, *input_shape)``."""
        t = t.reshape(-1, *[1] * self.start.ndim)
        return (self.start + t * self.direction).clamp(0, 1)

    def before(self, graph: Graph, mean: Tensor, std: Tensor) -> Graph:
        """The network as a function of ``t``, ``(batch, 1)``.

        Args:
            mean, std: the normalization of pixels that the network was trained with, broadcastable to them.
        """
        flat = Linear(self.direction.reshape(-1, 1), self.start.flatten())
        clamp = Activation(low=0.0, high=1.0)
        stages = (flat, Unflatten(tuple(self.start.shape)), clamp, normalization(mean, std))
        return prefixed(graph, stages, (1,))


@dataclass(frozen=True)
class Along:
    """Agreement of two modes on a line.

    Attributes:
        status: ``proved``, ``refuted`` or ``unknown``.
        share: of the line, on which agreement is proved.
        at: a parameter at which the modes disagree; None if none was found.
        parts: how many were bounded.
        seconds: for all modes together.
    """

    status: str
    share: float
    at: float | None
    parts: int
    seconds: float


def normalization(mean: Tensor, std: Tensor) -> Scale:
    """Pixels to the network's inputs: ``(x - mean) / std``."""
    mean, std = mean.double(), std.double()
    return Scale(1 / std, -mean / std)


def prefixed(graph: Graph, stages: Sequence[Stage], input_shape: Sequence[int]) -> Graph:
    """The network that applies ``stages``, then ``graph``."""
    nodes = [Node(stage, (i,)) for i, stage in enumerate(stages)]
    moved = [Node(node.stage, tuple(i + len(nodes) for i in node.inputs)) for node in graph.nodes]
    return Graph([*nodes, *moved], input_shape)


def agree_along(
    first: Graph,
    others: Mapping[str, Graph],
    low: float,
    high: float,
    time_limit: float = 60.0,
    *,
    smallest: float = 2.0**-10,
    method: Method = "joint",
    execution: Execution = "real",
) -> dict[str, Along]:
    """Prove or refute, for each of several modes, that it gives ``first``'s class for every ``t``.

    Args:
        first, others: networks of one number, see :meth:`Line.before`.
        low, high: the range of ``t``.
        time_limit: seconds for all modes together.
        smallest: share of the line below which a part is not halved: around a ``t`` where the first network's
            own class changes nothing is proved.
        method, execution: see :func:`~quantizable.verify.bounds.difference_bounds`.

    Raises:
        ValueError: networks of more than one number, or an empty range.
    """
    if first.input_shape != (1,) or not low <= high:
        raise ValueError(
            f"a line is about one number from {low} to {high}, the network takes {tuple(first.input_shape)}"
        )
    start = time.perf_counter()
    length = high - low
    disagrees = {name: _disagreement(first, graph, low, high) for name, graph in others.items()}
    proved, closed = dict.fromkeys(others, 0.0), dict.fromkeys(others, True)
    count = 0
    parts = [(low, high, frozenset(others))]
    while parts and time.perf_counter() - start < time_limit:
        now, parts = parts[:TOGETHER], parts[TOGETHER:]
        asked = frozenset().union(*(names for _, _, names in now))
        agree = _agreement(first, {name: others[name] for name in asked}, now, method, execution)
        count += len(now)
        for i, (a, b, names) in enumerate(now):
            good = {name for name in names if bool(agree[name][i])}
            for name in good:
                proved[name] += (b - a) / length if length > 0 else 1.0
            rest = names - good
            if b - a > smallest * length:
                middle = (a + b) / 2
                parts += [(a, middle, rest), (middle, b, rest)] if rest else []
            else:
                closed |= dict.fromkeys(rest, False)
    closed |= {name: False for _, _, names in parts for name in names}  # out of time
    seconds = time.perf_counter() - start
    result = {}
    for name in others:
        at = disagrees[name]
        status = "refuted" if at is not None else "proved" if closed[name] else "unknown"
        result[name] = Along(status, min(proved[name], 1.0), at, count, seconds)
    return result


def _agreement(
    first: Graph,
    others: Mapping[str, Graph],
    parts: Sequence[tuple[float, float, frozenset[str]]],
    method: Method,
    execution: Execution,
) -> dict[str, Tensor]:
    """For each mode, in which parts its margins and the first network's stay above 0, ``(parts,)``."""
    low, high = (torch.tensor([[part[side]] for part in parts], dtype=torch.float64) for side in (0, 1))
    box = Box(low, high)
    label = first(box.center).flatten(1).argmax(1)
    places = torch.arange(len(parts))
    agree = {}
    for name, found in mode_errors(first, others, box, method, execution).items():
        carried = found.second & found.first.plus(found.margins)
        rows = torch.stack([side.low[places, label] for side in (found.first, carried)])
        rows[:, places, label] = torch.inf  # the margin to itself
        agree[name] = (rows > 0).all(2).all(0)
    return agree


def _disagreement(first: Graph, second: Graph, low: float, high: float, count: int = 257) -> float | None:
    """A parameter at which the two networks give different classes, among some at equal distances."""
    t = torch.linspace(low, high, count, dtype=torch.float64)[:, None]
    for part in t.split(TOGETHER):
        other = first(part).flatten(1).argmax(1) != second(part).flatten(1).argmax(1)
        if other.any():
            return float(part[other][0, 0])
    return None
