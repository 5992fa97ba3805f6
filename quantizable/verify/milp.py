"""A pair of networks over one box as a mixed-integer linear program.

Encoding after QEBVerif (section 5), made small by what the bounds already know: a neuron that
cannot change its state stays a linear expression of earlier columns and costs no row; only
undecided ones get a column, a binary variable and big-M rows. Rounding is relaxed to a free
error of half a step, unless the neuron is listed in ``exact``: then its code is an integer
column. The difference bounds of undecided neurons are added as cuts.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import highspy
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds
from quantizable.verify.box import Box
from quantizable.verify.graph import AFFINE, Graph, apply
from quantizable.verify.interval import Interval, rounded
from quantizable.verify.stages import Activation

# A proof must survive the solver's own tolerances: the violated property is asked for this much
# more easily than it is defined.
MARGIN = 1e-5
FEASIBILITY = 1e-7

Neuron = tuple[int, int, int]  # network (0 or 1), node, flat index


@dataclass
class Expression:
    """Linear expressions over the program's columns: ``matrix`` (columns, n), ``constant`` (n,)."""

    matrix: Tensor
    constant: Tensor

    def padded(self, columns: int) -> Tensor:
        """The matrix with zero rows for columns that were added later."""
        missing = columns - self.matrix.shape[0]
        return torch.cat([self.matrix, self.matrix.new_zeros(missing, self.matrix.shape[1])])


    def at(self, solution: Tensor) -> Tensor:
        """Values ``(n,)`` at a solution of the whole program, ``(columns,)``."""
        return solution[: self.matrix.shape[0]] @ self.matrix + self.constant


@dataclass(frozen=True)
class Relaxed:
    """The neurons of one node whose rounding is a free error: ``after = before + error``."""

    network: int
    node: int
    stage: Activation
    neurons: Tensor
    before: Expression
    error: Expression


@dataclass
class Program:
    """Columns and rows of the program, collected before they go to HiGHS."""

    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    integer: list[Tensor] = field(default_factory=list)
    rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @property
    def columns(self) -> int:
        return sum(len(part) for part in self.low)

    def add_columns(self, low: Tensor, high: Tensor, integer: bool = False) -> Expression:
        """New variables, one per entry of ``low``; returns them as expressions."""
        start, count = self.columns, len(low)
        self.low.append(low)
        self.high.append(high)
        self.integer.append(torch.full((count,), integer))
        matrix = torch.zeros(start + count, count, dtype=torch.float64)
        matrix[start:] = torch.eye(count, dtype=torch.float64)
        return Expression(matrix, torch.zeros(count, dtype=torch.float64))

    def add_rows(self, terms: list[tuple[float | Tensor, Expression]], low: Tensor) -> None:
        """Constraints ``sum(factor * expression) >= low``, one per entry."""
        matrix = torch.zeros(self.columns, len(low), dtype=torch.float64)
        constant = torch.zeros_like(low)
        for factor, expression in terms:
            matrix = matrix + expression.padded(self.columns) * factor
            constant = constant + expression.constant * factor
        self.rows.append((matrix, low - constant, torch.full_like(low, torch.inf)))


class PairProgram:
    """``second - first`` over one box, ready to be asked whether it can reach a value.

    Args:
        first, second: the networks.
        box: one box (batch of 1).
        bounds: difference bounds over that box; they give big-M values, states and cuts.
        exact: neurons of either network whose rounding is encoded with an integer.
        weights: the question is about ``weights . (second(x) - first(x))``, ``(outputs,)``.
    """

    def __init__(
        self,
        first: Graph,
        second: Graph,
        box: Box,
        bounds: DifferenceBounds,
        exact: Set[Neuron],
        weights: Tensor,
    ) -> None:
        self.program = Program()
        self.input_shape = box.low.shape[1:]
        pixels = self.program.add_columns(box.low.flatten(), box.high.flatten())
        values: tuple[list[Expression], list[Expression]] = ([pixels], [pixels])
        self.relaxed: list[Relaxed] = []
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
        columns = self.program.columns
        self.objective = (out2.padded(columns) - out1.padded(columns)) @ weights
        self.constant = float((out2.constant - out1.constant) @ weights)

    def input_of(self, solution: Tensor) -> Tensor:
        """The input part of a solution, ``(1, *input_shape)``."""
        return solution[: self.input_shape.numel()].reshape(1, *self.input_shape)

    def cheating(self, solution: Tensor, influence: dict[tuple[int, int], Tensor], count: int) -> set[Neuron]:
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
            ``("time limit", s or None)``: no answer in time.
        """
        solver = highspy.Highs()
        for option, value in {
            "output_flag": False,
            "threads": 1,
            "time_limit": float(max(time_limit, 0.1)),
            "primal_feasibility_tolerance": FEASIBILITY,
            "mip_feasibility_tolerance": FEASIBILITY,
            "mip_rel_gap": 0.1,
        }.items():
            solver.setOptionValue(option, value)
        solver.passModel(self._lp(target - MARGIN))
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
        columns = self.program.columns
        shapes = [graph.shapes[i] for i in node.inputs]
        matrices = [e.padded(columns).reshape(-1, *s) for e, s in zip(inputs, shapes, strict=True)]
        constants = [e.constant.reshape(1, *s) for e, s in zip(inputs, shapes, strict=True)]
        if isinstance(node.stage, AFFINE):
            matrix = node.stage.multiply(matrices[0])
        else:
            matrix = apply(node.stage, *matrices)
        constant = apply(node.stage, *constants)
        return Expression(matrix.flatten(1), constant.flatten())

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
        if stage.step > 0:
            x = self._rounding(stage, x, r, ~fixed, exact, place)
        below = ~fixed & (r.low < low)
        above = ~fixed & (r.high > high)
        x = self._maximum(x, r, low, below)
        r = Interval(torch.where(below, low, r.low), r.high)
        x = self._minimum(x, r, high, above)
        keep = ~fixed
        matrix = x.matrix * keep
        constant = torch.where(keep, x.constant, stage.clamp(r.low))
        return Expression(matrix, constant), below | above

    def _rounding(
        self,
        stage: Activation,
        x: Expression,
        r: Interval,
        free: Tensor,
        exact: list[int],
        place: tuple[int, int],
    ) -> Expression:
        whole = torch.zeros_like(free)
        whole[exact] = True
        whole &= free
        half = torch.full_like(r.low, stage.step / 2)
        relaxed = free & ~whole
        error = self.program.add_columns(-half[relaxed], half[relaxed])
        self.relaxed.append(Relaxed(*place, stage, relaxed.nonzero()[:, 0], _select(x, relaxed), error))
        x = _scatter(x, relaxed, error, self.program.columns, add=True)
        if whole.any():
            codes = [(side[whole] / stage.step + stage.zero_point).round() for side in r]
            code = self.program.add_columns(codes[0], codes[1], integer=True)
            before = _select(x, whole)
            after = Expression(code.matrix * stage.step, stage.value(code.constant))
            self.program.add_rows([(1.0, before), (-1.0, after)], -half[whole])
            self.program.add_rows([(-1.0, before), (1.0, after)], -half[whole])
            x = _scatter(x, whole, after, self.program.columns)
        return x

    def _maximum(self, x: Expression, r: Interval, limit: Tensor, where: Tensor) -> Expression:
        """``max(x, limit)`` for the neurons of ``where``, which cross it."""
        if not where.any():
            return x
        v, lim, lo, hi = _select(x, where), limit[where], r.low[where], r.high[where]
        z = self.program.add_columns(lim, hi)
        active = self.program.add_columns(torch.zeros_like(lim), torch.ones_like(lim), True)
        self.program.add_rows([(1.0, z), (-1.0, v)], torch.zeros_like(lim))
        # z <= v + (limit - low) (1 - active) and z <= limit + (high - limit) active
        self.program.add_rows([(-1.0, z), (1.0, v), (-(lim - lo), active)], -(lim - lo))
        self.program.add_rows([(-1.0, z), (hi - lim, active)], -lim)
        return _scatter(x, where, z, self.program.columns)

    def _minimum(self, x: Expression, r: Interval, limit: Tensor, where: Tensor) -> Expression:
        """``min(x, limit)``, as ``-max(-x, -limit)``."""
        negated = Expression(-x.matrix, -x.constant)
        result = self._maximum(negated, Interval(-r.high, -r.low), -limit, where)
        return Expression(-result.matrix, -result.constant)

    def _difference_cuts(
        self, first: Expression, second: Expression, where: Tensor, bounds: Interval
    ) -> None:
        a, b = _select(first, where), _select(second, where)
        self.program.add_rows([(1.0, b), (-1.0, a)], bounds.low)
        self.program.add_rows([(-1.0, b), (1.0, a)], -bounds.high)

    def _lp(self, target: float) -> highspy.HighsLp:
        """The HiGHS model: maximise the objective, which must be at least ``target``."""
        columns = self.program.columns
        blocks = [
            torch.cat([matrix, matrix.new_zeros(columns - matrix.shape[0], matrix.shape[1])]).T
            for matrix, _, _ in self.program.rows
        ]
        matrix = torch.cat([*blocks, self.objective[None]])
        low = torch.cat([*(row[1] for row in self.program.rows), torch.tensor([target - self.constant]).double()])
        high = torch.full_like(low, torch.inf)
        sparse = csr_matrix(matrix.numpy())
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, len(low)
        lp.col_cost_ = self.objective.numpy()
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_lower_ = torch.cat(self.program.low).numpy()
        lp.col_upper_ = torch.cat(self.program.high).numpy()
        lp.row_lower_, lp.row_upper_ = low.numpy(), high.numpy()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = sparse.indptr
        lp.a_matrix_.index_ = sparse.indices
        lp.a_matrix_.value_ = sparse.data
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in torch.cat(self.program.integer)]
        return lp


def _select(x: Expression, where: Tensor) -> Expression:
    return Expression(x.matrix[:, where], x.constant[where])


def _scatter(
    x: Expression, where: Tensor, new: Expression, columns: int, add: bool = False
) -> Expression:
    """``x`` with the entries of ``where`` replaced by (or increased by) ``new``."""
    matrix, constant = x.padded(columns), x.constant.clone()
    if add:
        matrix[:, where] += new.padded(columns)
        constant[where] += new.constant
    else:
        matrix[:, where] = new.padded(columns)
        constant[where] = new.constant
    return Expression(matrix, constant)
