"""A pair of networks over one box as a mixed-integer linear program.

Encoding after QEBVerif (section 5), made small by what the bounds already know: a neuron that
cannot change its state stays a linear expression of earlier columns and costs no row; only
undecided ones get a column, a binary variable and big-M rows. A neuron with few codes is a
staircase (:mod:`~quantizable.verify.staircase`), relaxed to its convex hull; of others rounding is relaxed
to a free error of half a step. A neuron that is listed in ``exact`` has whole numbers instead.
The difference bounds of undecided neurons are added as cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import highspy
import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds
from quantizable.verify.box import Box
from quantizable.verify.graph import AFFINE, Graph, apply
from quantizable.verify.interval import Interval, gamma, rounded
from quantizable.verify.program import (
    FEW_ROUNDINGS,
    SLACK,
    SMALLEST_ENTRY,
    Expression,
    Program,
    scatter,
    select,
)
from quantizable.verify.stages import Activation
from quantizable.verify.staircase import add_staircase, has_few_steps

# A proof must survive the solver's own tolerances: the violated property is asked for more easily
# than it is defined, by this share of what one column can do to it.
MARGIN = 1e-5
FEW_CODES = 64  # of a neuron that may well have whole numbers
MOST_CODES = 2.0**16  # a neuron with more codes keeps its rounding relaxed: they would be below the tolerance

Neuron = tuple[int, int, int]  # network (0 or 1), node, flat index


@dataclass(frozen=True)
class Relaxed:
    """The neurons of one node whose rounding is a free error: ``after = before + error``."""

    network: int
    node: int
    stage: Activation
    neurons: Tensor
    before: Expression
    error: Expression


class PairProgram:
    """``second - first`` over one box, ready to be asked whether it can reach a value.

    Args:
        first, second: the networks.
        box: one box (batch of 1).
        bounds: difference bounds over that box; they give big-M values, states and cuts.
        exact: neurons of either network whose rounding is encoded with an integer.
        weights: the question is about ``weights . (second(x) - first(x))``, ``(outputs,)``.
        first_weights: of the first network's outputs instead of ``-weights``.
        conditions: the question is only about inputs at which these sums of the first network's outputs are
            not negative, ``(conditions, outputs)``.

    Attributes:
        relaxed: the neurons whose rounding is a free error.
        few_codes: the neurons that are not in ``exact`` and have at most :data:`FEW_CODES` codes.
    """

    def __init__(
        self,
        first: Graph,
        second: Graph,
        box: Box,
        bounds: DifferenceBounds,
        exact: Set[Neuron],
        weights: Tensor,
        *,
        first_weights: Tensor | None = None,
        conditions: Tensor | None = None,
    ) -> None:
        self.program = Program()
        self.input_shape = box.low.shape[1:]
        self.pixels = self.program.add_columns(box.low.flatten(), box.high.flatten())
        values: tuple[list[Expression], list[Expression]] = ([self.pixels], [self.pixels])
        self.relaxed: list[Relaxed] = []
        self.few_codes: set[Neuron] = set()
        for index, node in enumerate(first.nodes):
            undecided = torch.zeros(0, dtype=torch.bool)
            for which, (graph, own) in enumerate(((first, bounds.first), (second, bounds.second))):
                stage = graph.nodes[index].stage
                inputs = [values[which][i] for i in node.inputs]
                if isinstance(stage, Activation):
                    x = Interval(*(limit[0].flatten() for limit in own[node.inputs[0]]))
                    chosen = [n for (w, i, n) in exact if (w, i) == (which, index)]
                    result, open_ = self._activation(stage, inputs[0], x, chosen, (which, index))
                    undecided = open_ if which == 0 else undecided | open_
                else:
                    result = self._linear(graph, index, inputs)
                values[which].append(result)
            if undecided.any():
                cut = Interval(*(side[0].flatten()[undecided] for side in bounds.difference[index + 1]))
                self._difference_cuts(values[0][-1], values[1][-1], undecided, cut)
        out1, out2 = values[0][-1], values[1][-1]
        aims = ((out1, -weights if first_weights is None else first_weights), (out2, weights))
        if conditions is not None:
            self._sums(out1, conditions)
        self.objective = torch.stack([x.padded(self.program.columns) @ w for x, w in aims]).sum(0)
        self.constant = torch.stack([x.constant @ w for x, w in aims]).sum()
        self.error = torch.stack([self._lost(x) @ w.abs() for x, w in aims]).sum()

    def _lost(self, x: Expression) -> Tensor:
        """How far float64 can move a sum of these outputs, each with a weight of 1, ``(outputs,)``."""
        return x.error + 2 * gamma(len(x.constant)) * x.size(self.program.reach)

    def _sums(self, x: Expression, rows: Tensor) -> None:
        """Ask that sums of outputs are not negative."""
        sums = Expression(x.matrix @ rows.T, x.constant @ rows.T, self._lost(x) @ rows.abs().T)
        self.program.add_rows([(1.0, sums)], torch.zeros(len(rows), dtype=torch.float64))

    def input_of(self, solution: Tensor) -> Tensor:
        """The input part of a solution, ``(1, *input_shape)``."""
        return self.pixels.at(solution).reshape(1, *self.input_shape)

    def cheating(
        self, solution: Tensor, influence: Mapping[tuple[int, int], Tensor], count: int
    ) -> set[Neuron]:
        """The neurons whose relaxed rounding gains most in ``solution`` over true rounding.

        Args:
            influence: for each (network, node), how much each neuron moves the output.
            count: how many to return at most.
        """
        gains: list[tuple[float, Neuron]] = []
        for part in self.relaxed:
            before = part.before.at(solution)
            gap = (before + part.error.at(solution) - part.stage.round(before)).abs()
            gap = gap * influence[part.network, part.node][part.neurons]
            gains += [
                (float(g), (part.network, part.node, int(n)))
                for g, n in zip(gap, part.neurons, strict=True)
                if g > 0
            ]
        return {neuron for _, neuron in sorted(gains, reverse=True)[:count]}

    def reach(self, target: float, time_limit: float) -> tuple[str, Tensor | None]:
        """Look for a point of the relaxed program whose objective is at least ``target``.

        Returns:
            ``("infeasible", None)``: no input reaches it, a proof. ``("feasible", s)``: the
            relaxed program does, in the solution ``s`` (its input is to be replayed).
            ``("time limit", s or None)``: no answer in time,
            or numbers that are not finite, about which nothing can be proved.
        """
        needed = target - self.constant - self.error
        model = self.program.highs_model(self.objective, needed, MARGIN)
        if model is None:
            return "time limit", None
        solver = highspy.Highs()
        for option, value in {
            "output_flag": False,
            "threads": 1,
            "time_limit": float(max(time_limit, 0.1)),
            "primal_feasibility_tolerance": SLACK,
            "mip_feasibility_tolerance": SLACK,
            "small_matrix_value": SMALLEST_ENTRY,
            "mip_rel_gap": 0.1,
        }.items():
            solver.setOptionValue(option, value)
        solver.passModel(model)
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return "infeasible", None
        solution = solver.getSolution()
        found = None
        if solution.value_valid:
            found = torch.tensor(solution.col_value, dtype=torch.float64)
        optimal = status == highspy.HighsModelStatus.kOptimal
        return ("feasible" if optimal else "time limit"), found

    def _linear(self, graph: Graph, index: int, inputs: list[Expression]) -> Expression:
        """Affine, residual and reshaping stages act on each column of the matrix."""
        node = graph.nodes[index]
        columns, reach = self.program.columns, self.program.reach
        shapes = [graph.shapes[i] for i in node.inputs]
        matrices = [e.padded(columns).reshape(-1, *s) for e, s in zip(inputs, shapes, strict=True)]
        constants = [e.constant.reshape(1, *s) for e, s in zip(inputs, shapes, strict=True)]
        g = 2 * gamma(max(shape.numel() for shape in shapes))
        lost = [(e.error + g * e.size(reach)).reshape(1, *s) for e, s in zip(inputs, shapes, strict=True)]
        if isinstance(node.stage, AFFINE):
            matrix = node.stage.multiply(matrices[0])
            error = node.stage.absolute().multiply(lost[0]) + g * node.stage.offset.abs()
        else:
            matrix = apply(node.stage, *matrices)
            error = apply(node.stage, *lost)
        constant = apply(node.stage, *constants)
        return Expression(matrix.flatten(1), constant.flatten(), error.flatten())

    def _activation(
        self,
        stage: Activation,
        x: Expression,
        bounds: Interval,
        exact: list[int],
        place: tuple[int, int],
    ) -> tuple[Expression, Tensor]:
        """``clamp(round(x))``; also which neurons are not yet a linear function of the input."""
        r = rounded(stage, bounds)
        low, high = (torch.full_like(r.low, limit) for limit in (stage.low, stage.high))
        fixed = stage.clamp(r.low) == stage.clamp(r.high)
        stairs = ~fixed & has_few_steps(stage, r)
        if stage.step > 0:
            whole = torch.zeros_like(fixed)
            whole[exact] = True
            few = stairs | ((r.high - r.low) < (FEW_CODES - 0.5) * stage.step)
            self.few_codes |= {(*place, int(n)) for n in (few & ~fixed & ~whole).nonzero()}
            x = self._rounding(stage, x, r, ~fixed & ~stairs, whole, place)
            x = self._staircases(stage, x, (bounds, r), stairs, whole)
        below = ~fixed & ~stairs & (r.low < low)
        above = ~fixed & ~stairs & (r.high > high)
        x = self._maximum(x, r, low, below)
        r = Interval(torch.where(below, low, r.low), r.high)
        x = self._minimum(x, r, high, above)
        keep = ~fixed
        matrix = x.matrix * keep
        constant = torch.where(keep, x.constant, stage.clamp(r.low))
        error = torch.where(keep, x.error, FEW_ROUNDINGS * constant.abs())
        return Expression(matrix, constant, error), below | above | stairs

    def _staircases(
        self,
        stage: Activation,
        x: Expression,
        ranges: tuple[Interval, Interval],
        stairs: Tensor,
        whole: Tensor,
    ) -> Expression:
        """The neurons of ``stairs``; their bounds before and behind the rounding are ``ranges``."""
        for where, integer in ((stairs & whole, True), (stairs & ~whole, False)):
            if where.any():
                inner, values = (Interval(side.low[where], side.high[where]) for side in ranges)
                after = add_staircase(self.program, stage, select(x, where), inner, values, integer)
                x = scatter(x, where, after, self.program.columns)
        return x

    def _rounding(
        self,
        stage: Activation,
        x: Expression,
        r: Interval,
        free: Tensor,
        whole: Tensor,
        place: tuple[int, int],
    ) -> Expression:
        """The neurons of ``free``: an error of half a step, or a whole number for those of ``whole``."""
        whole = whole & free & ((r.high - r.low) < MOST_CODES * stage.step)
        half = torch.full_like(r.low, stage.step / 2)
        relaxed = free & ~whole
        error = self.program.add_columns(-half[relaxed], half[relaxed])
        self.relaxed.append(Relaxed(*place, stage, relaxed.nonzero()[:, 0], select(x, relaxed), error))
        x = scatter(x, relaxed, error, self.program.columns, add=True)
        if whole.any():
            codes = [(side[whole] / stage.step + stage.zero_point).round() for side in r]
            code = self.program.add_columns(codes[0], codes[1], integer=True)
            before = select(x, whole)
            size = (code.constant.abs() + abs(stage.zero_point)) * stage.step
            after = Expression(code.matrix * stage.step, stage.value(code.constant), FEW_ROUNDINGS * size)
            self.program.add_rows([(1.0, before), (-1.0, after)], -half[whole])
            self.program.add_rows([(-1.0, before), (1.0, after)], -half[whole])
            x = scatter(x, whole, after, self.program.columns)
        return x

    def _maximum(self, x: Expression, r: Interval, limit: Tensor, where: Tensor) -> Expression:
        """``max(x, limit)`` for the neurons of ``where``, which cross it."""
        if not where.any():
            return x
        v, lim, lo, hi = select(x, where), limit[where], r.low[where], r.high[where]
        z = self.program.add_columns(lim, hi)
        active = self.program.add_columns(torch.zeros_like(lim), torch.ones_like(lim), True)
        self.program.add_rows([(1.0, z), (-1.0, v)], torch.zeros_like(lim))
        # z <= v + (limit - low) (1 - active) and z <= limit + (high - limit) active
        self.program.add_rows([(-1.0, z), (1.0, v), (-(lim - lo), active)], -(lim - lo))
        self.program.add_rows([(-1.0, z), (hi - lim, active)], -lim)
        return scatter(x, where, z, self.program.columns)

    def _minimum(self, x: Expression, r: Interval, limit: Tensor, where: Tensor) -> Expression:
        """``min(x, limit)``, as ``-max(-x, -limit)``."""
        negated = replace(x, matrix=-x.matrix, constant=-x.constant)
        result = self._maximum(negated, Interval(-r.high, -r.low), -limit, where)
        return replace(result, matrix=-result.matrix, constant=-result.constant)

    def _difference_cuts(
        self, first: Expression, second: Expression, where: Tensor, bounds: Interval
    ) -> None:
        a, b = select(first, where), select(second, where)
        self.program.add_rows([(1.0, b), (-1.0, a)], bounds.low)
        self.program.add_rows([(-1.0, b), (1.0, a)], -bounds.high)
