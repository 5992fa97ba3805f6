"""Linear bounds of any value over the network's input, by back-substitution (DeepPoly).

An expression ``C v`` of some value ``v`` is rewritten, stage by stage towards the input, into
a linear form of the input that bounds it from above. A lower bound is minus the upper bound of
``-C v``. Forms of two networks over the same input can be subtracted before they are bounded,
which keeps the correlation that separate intervals lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.verify.box import Box
from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import gamma
from quantizable.verify.pool_bounds import Pick
from quantizable.verify.rearranging import REARRANGING, Concat
from quantizable.verify.relaxation import Relaxation
from quantizable.verify.stages import Add, Stage

Bounds = Relaxation | Pick  # linear bounds of a stage that is not linear


@dataclass(frozen=True)
class Form:
    """``coefficients . x + constant``, plus or minus ``roundoff``.

    Attributes:
        coefficients: ``(batch or 1, rows, inputs)``, over the flattened input.
        constant: ``(batch or 1, rows)``.
        roundoff: bound of the float64 error made while the form was computed, in units of the
            result, ``(batch or 1, rows)``.
    """

    coefficients: Tensor
    constant: Tensor
    roundoff: Tensor

    def __add__(self, other: Form) -> Form:
        return Form(
            self.coefficients + other.coefficients,
            self.constant + other.constant,
            self.roundoff + other.roundoff,
        )

    @classmethod
    def of_rows(cls, parts: Sequence[Form]) -> Form:
        """All rows of several forms in one."""

        def joined(name: str) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            batch = max(x.shape[0] for x in tensors)  # 1 if it is the same for every box
            return torch.cat([x.expand(batch, *x.shape[1:]) for x in tensors], 1)

        return parts[0] if len(parts) == 1 else cls(*map(joined, ("coefficients", "constant", "roundoff")))

    def rows(self, part: slice) -> Form:
        return Form(self.coefficients[:, part], self.constant[:, part], self.roundoff[:, part])

    def maximum(self, box: Box) -> Tensor:
        """Largest value over the box, rounded up: ``(batch, rows)``."""
        low, high = box.low.flatten(1), box.high.flatten(1)
        middle, radius = (low + high) / 2, (high - low) / 2
        absolute = self.coefficients.abs()
        size = _dot(absolute, torch.maximum(low.abs(), high.abs())) + self.constant.abs()
        value = _dot(self.coefficients, middle) + _dot(absolute, radius) + self.constant
        return value + self.roundoff + 4 * gamma(low.shape[1]) * size

    def maximizer(self, box: Box) -> Tensor:
        """A corner of the box where the form is largest: ``(batch, rows, *input_shape)``."""
        low, high = box.low.flatten(1)[:, None], box.high.flatten(1)[:, None]
        corner = torch.where(self.coefficients > 0, high, low)
        return corner.reshape(*corner.shape[:2], *box.low.shape[1:])


def upper_form(
    graph: Graph,
    value: int,
    coefficients: Tensor,
    relaxations: Mapping[int, Bounds],
    magnitudes: Mapping[int, Tensor],
) -> Form:
    """A linear form of the input that is at least ``C v`` everywhere in the box.

    Args:
        value: index of ``v`` among the graph's values.
        coefficients: ``C``, ``(batch or 1, rows, *shape of v)``.
        relaxations: linear bounds of each node on the way that is not linear.
        magnitudes: for each node, a bound of ``|A| |x| + |bias|``, ``(batch, *shape)``: the
            scale of the rounding errors made at that node.
    """
    pending = {value: coefficients}
    rows = coefficients.shape[1]
    constant = torch.zeros(1, rows, dtype=torch.float64)
    roundoff = torch.zeros(1, rows, dtype=torch.float64)
    # One factor for the whole walk: no sum in it has more terms than the largest value.
    factor = 4 * gamma(max(shape.numel() for shape in graph.shapes))
    for index in range(value, 0, -1):
        if index not in pending:
            continue
        a = pending.pop(index)
        node = graph.nodes[index - 1]
        if index - 1 in magnitudes:
            roundoff = roundoff + factor * _dot(a.abs().flatten(2), magnitudes[index - 1].flatten(1))
        in_shapes = [graph.shapes[i] for i in node.inputs]
        parts, offset = _through(node.stage, a, in_shapes, relaxations.get(index - 1))
        constant = constant + offset
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    at_input = pending.get(0)
    if at_input is None:
        at_input = torch.zeros(1, rows, *graph.input_shape, dtype=torch.float64)
    return Form(at_input.flatten(2), constant, roundoff)


def _through(
    stage: Stage, a: Tensor, in_shapes: list[torch.Size], lines: Bounds | None
) -> tuple[list[Tensor], Tensor | float]:
    """One stage towards the input: coefficients of each value it reads, and what the constant grows by.

    Args:
        a: coefficients of the stage's result, ``(batch or 1, rows, *out_shape)``.
    """
    if isinstance(lines, Pick):
        part, offset = lines.upper(a, in_shapes[0])
        return [part], offset
    if lines is not None:
        lower, upper = lines
        up, down = a.clamp(min=0), a.clamp(max=0)
        offsets = up * upper.offset[:, None] + down * lower.offset[:, None]
        return [up * upper.slope[:, None] + down * lower.slope[:, None]], offsets.flatten(2).sum(2)
    if isinstance(stage, Add):
        return [a, a], 0.0
    if isinstance(stage, Concat):
        return stage.split(a, in_shapes), 0.0
    assert isinstance(stage, (*AFFINE, *REARRANGING))
    part = stage.adjoint(a.flatten(0, 1), in_shapes[0]).reshape(*a.shape[:2], *in_shapes[0])
    if not isinstance(stage, AFFINE):
        return [part], 0.0
    return [part], (a * torch.broadcast_to(stage.offset, a.shape[2:])).flatten(2).sum(2)


def signed_rows(shape: torch.Size, start: int, end: int) -> Tensor:
    """Rows ``start`` to ``end`` of ``+v_i`` for all i and then ``-v_i``, ``(1, rows, *shape)``."""
    size = shape.numel()
    index = torch.arange(start, end)
    rows = torch.zeros(1, len(index), size, dtype=torch.float64)
    rows[0, torch.arange(len(index)), index % size] = torch.where(index < size, 1.0, -1.0).double()
    return rows.reshape(1, -1, *shape)


def _dot(a: Tensor, x: Tensor) -> Tensor:
    """``(batch or 1, rows, n)`` times ``(batch, n)``: ``(batch, rows)``."""
    if a.shape[0] == 1:
        return x @ a[0].T
    return torch.einsum("brn,bn->br", a, x)
