"""Linear bounds of any value over earlier values, by back-substitution (DeepPoly).

An expression ``C v`` of some value ``v`` is rewritten, stage by stage towards the input, into
a linear form that bounds it from above. A lower bound is minus the upper bound of ``-C v``. Forms of two
networks over the same values can be subtracted before they are bounded, which keeps the correlation that
separate intervals lose.

The walk ends at the input, or where its rows have taken the coefficients allowed. What is left then is a form
of the values that were reached, whose intervals are known (after GPUPoly, Müller et al., MLSys 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.verify.box import Box
from quantizable.verify.graph import AFFINE, Graph
from quantizable.verify.interval import Interval, gamma
from quantizable.verify.pool_bounds import Pick
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import REARRANGING, Concat
from quantizable.verify.relaxation import Relaxation
from quantizable.verify.stages import Add, Stage
from quantizable.verify.steps import affine_step, concat_step, lines_step, pool_step, rearranging_step
from quantizable.verify.windows import Rows

Bounds = Relaxation | Pick  # linear bounds of a stage that is not linear


@dataclass(frozen=True)
class Form:
    """The sum of ``coefficients . value`` over some values, and a constant, plus or minus ``roundoff``.

    Attributes:
        parts: the coefficients of each value.
        constant: ``(batch or 1, places, rows)``.
        roundoff: bound of the float64 error made while the form was computed, in units of the
            result, ``(batch or 1, places, rows)``.
        largest: the most coefficients that one row had on the way.
    """

    parts: Mapping[int, Rows]
    constant: Tensor
    roundoff: Tensor
    largest: int = 0

    def __getitem__(self, part: slice) -> Form:
        """Some of the rows of each place."""
        parts = {value: rows[part] for value, rows in self.parts.items()}
        return Form(parts, self.constant[:, :, part], self.roundoff[:, :, part])

    def __add__(self, other: Form) -> Form:
        parts = {v: Rows(rows.values + other.parts[v].values, rows.start) for v, rows in self.parts.items()}
        return Form(parts, self.constant + other.constant, self.roundoff + other.roundoff)

    def maximum(self, own: Sequence[Interval]) -> Tensor:
        """Largest value over the intervals of the values, rounded up: ``(batch, places, rows)``."""
        value, size = self.constant, self.constant.abs()
        for index, rows in self.parts.items():
            more, scale = largest_product(rows, own[index])
            value, size = value + more, size + scale
        return value + self.roundoff + self._slack() * size

    def plus_maximum(
        self, other: Form, own: tuple[Sequence[Interval], Sequence[Interval]], difference: Sequence[Interval]
    ) -> Tensor:
        """Largest value of this form of the second network's values plus another one of the first's.

        With ``a`` and ``b`` the coefficients of a value, ``a x2 + b x1`` is ``a (x2 - x1) + (a + b) x1``, and
        also ``-b (x2 - x1) + (a + b) x2``.

        Args:
            own: of the first and of the second network.
            difference: of the second network's values minus the first's; 0 of the input.
        """
        constant = self.constant + other.constant
        found = []
        for carrier, sign, intervals in ((self, 1.0, own[0]), (other, -1.0, own[1])):
            value, size = constant, constant.abs()
            for index, mine in self.parts.items():
                theirs = other.parts[index]
                terms = [(Rows(mine.values + theirs.values, mine.start), intervals[index])]
                if index > 0:
                    rows = carrier.parts[index]
                    terms.append((Rows(sign * rows.values, rows.start), difference[index]))
                for rows, interval in terms:
                    more, scale = largest_product(rows, interval)
                    value, size = value + more, size + scale
            found.append(value + self._slack() * size)
            if set(self.parts) <= {0}:
                break  # both are the same
        return found[0].minimum(found[-1]) + self.roundoff + other.roundoff

    def maximizer(self, box: Box) -> Tensor:
        """A corner of the box where the form is largest, as far as it is one of the input: ``(batch, rows,
        *input_shape)`` of a form with one place."""
        rows = self.parts.get(0)
        if rows is None:
            return box.center[:, None]
        coefficients = rows.whole(box.low.shape[1:]).values[:, 0]
        return torch.where(coefficients > 0, box.high[:, None], box.low[:, None])

    def _slack(self) -> float:
        return 4 * gamma(sum(rows.size for rows in self.parts.values()))


def largest_product(rows: Rows, x: Interval) -> tuple[Tensor, Tensor]:
    """Largest value of each row times ``x``, and the size of its terms: two of ``(batch, places, rows)``."""
    middle, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
    absolute = rows.absolute()
    return rows.dot(middle) + absolute.dot(radius), absolute.dot(x.magnitude)


def upper_form(
    graph: Graph,
    value: int,
    rows: Rows,
    relaxations: Mapping[int, Bounds],
    errors: Mapping[int, Tensor],
    most: float = float("inf"),
) -> Form:
    """A linear form of earlier values that is at least ``C v`` everywhere in the box.

    Args:
        value: index of ``v`` among the graph's values.
        rows: ``C``.
        relaxations: linear bounds of each node on the way that is not linear.
        errors: of each node, how far its result may be from what the form says, ``(batch, *shape)``.
        most: coefficients that one row may take on the whole way, after which the walk ends.
    """
    pending = {value: rows}
    places, count = rows.values.shape[1:3]
    constant = torch.zeros(1, places, count, dtype=torch.float64)
    roundoff = torch.zeros(1, places, count, dtype=torch.float64)
    spent, largest = 0, 0
    for index in range(value, 0, -1):
        if index not in pending:
            continue
        if index < value and spent + pending[index].size > most:
            break
        a = pending.pop(index)
        spent, largest = spent + a.size, max(largest, a.size)
        node = graph.nodes[index - 1]
        if index - 1 in errors:
            roundoff = roundoff + a.absolute().dot(errors[index - 1])
        in_shapes = [graph.shapes[i] for i in node.inputs]
        parts, offset = _through(node.stage, a, in_shapes, graph.shapes[index], relaxations.get(index - 1))
        constant = constant + offset
        for source, part in zip(node.inputs, parts, strict=True):
            before = pending.get(source)
            pending[source] = part if before is None else before.plus(part, graph.shapes[source])
    return Form(pending, constant, roundoff, max([largest, *(part.size for part in pending.values())]))


def _through(
    stage: Stage, a: Rows, in_shapes: list[torch.Size], shape: torch.Size, lines: Bounds | None
) -> tuple[list[Rows], Tensor | float]:
    """One stage towards the input: coefficients of each value it reads, and what the constant grows by.

    Args:
        a: coefficients of the stage's result.
        shape: of the result.
    """
    if isinstance(lines, Pick):
        assert isinstance(stage, MaxPool2d)
        part, offset = pool_step(stage, lines, a, in_shapes[0])
        return [part], offset
    if lines is not None:
        part, offset = lines_step(lines, a)
        return [part], offset
    if isinstance(stage, Add):
        return [a, a], 0.0
    if isinstance(stage, Concat):
        return concat_step(stage, a, in_shapes, shape), 0.0
    if isinstance(stage, AFFINE):
        part, offset = affine_step(stage, a, in_shapes[0], shape)
        return [part], offset
    assert isinstance(stage, REARRANGING)
    return [rearranging_step(stage, a, in_shapes[0], shape)], 0.0
