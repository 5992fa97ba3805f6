"""Columns and rows of a mixed-integer program, and linear expressions over its columns.

A solver decides with absolute tolerances (HiGHS: a row holds if it is violated by at most
1e-7, an entry up to 1e-9 is no entry). They mean the same for every network only if the numbers
have one scale. So a column is the position within its range, from -1 to 1 (0 to n for a whole
number), and a row is divided by its largest entry. What is lost on the way, to float64 or to an
entry that is still too small, makes the row easier to satisfy: the program then holds more than
the networks do, so "infeasible" stays a proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import highspy
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from quantizable.verify.interval import UNIT_ROUNDOFF, down, up

SMALLEST_ENTRY = 1e-12  # what HiGHS is told to keep (its default is 1e-9)
NEGLIGIBLE = 1e-10  # of a row's largest effect: such an entry is left out, and paid for
SLACK = 1e-7  # of a row's largest effect: what the solver itself may round away
FEW_ROUNDINGS = 8 * UNIT_ROUNDOFF


@dataclass
class Expression:
    """Linear expressions over the program's columns.

    Attributes:
        matrix: ``(columns, n)``.
        constant: ``(n,)``.
        error: how far float64 can have moved each one from what it stands for, anywhere in the ranges of
            the columns, ``(n,)``.
    """

    matrix: Tensor
    constant: Tensor
    error: Tensor

    def padded(self, columns: int) -> Tensor:
        """The matrix with zero rows for columns that were added later."""
        missing = columns - self.matrix.shape[0]
        return torch.cat([self.matrix, self.matrix.new_zeros(missing, self.matrix.shape[1])])

    def at(self, solution: Tensor) -> Tensor:
        """Values ``(n,)`` at a solution of the whole program, ``(columns,)``."""
        return solution[: self.matrix.shape[0]] @ self.matrix + self.constant

    def size(self, reach: Tensor) -> Tensor:
        """The sum of the terms' largest absolute values, ``(n,)``: the scale of a rounding error."""
        return reach[: self.matrix.shape[0]] @ self.matrix.abs() + self.constant.abs()


@dataclass
class Program:
    """Columns and rows of the program, collected before they go to HiGHS."""

    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    integer: list[Tensor] = field(default_factory=list)
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def columns(self) -> int:
        return sum(len(part) for part in self.low)

    @property
    def reach(self) -> Tensor:
        """The largest absolute value of each column, ``(columns,)``."""
        return torch.cat([torch.maximum(a.abs(), b.abs()) for a, b in zip(self.low, self.high, strict=True)])

    def add_columns(self, low: Tensor, high: Tensor, integer: bool = False) -> Expression:
        """New variables from ``low`` to ``high``, one per entry; returns them as expressions, in their own
        units."""
        start, count = self.columns, len(low)
        zero, one = torch.zeros_like(low), torch.ones_like(low)
        if integer:
            middle, radius = low, one
            self.low.append(zero)
            self.high.append(high - low)
        else:
            middle = (low + high) / 2
            # rounded up, so that the column reaches both ends
            radius = torch.maximum(up(high - middle), up(middle - low))
            radius = torch.where(low == high, zero, radius)
            self.low.append(-one)
            self.high.append(one)
        self.integer.append(torch.full((count,), integer))
        matrix = torch.zeros(start + count, count, dtype=torch.float64)
        matrix[start:] = torch.diag(radius)
        return Expression(matrix, middle, zero)

    def add_rows(self, terms: list[tuple[float | Tensor, Expression]], low: Tensor) -> None:
        """Constraints ``sum(factor * expression) >= low``, one per entry."""
        reach = self.reach
        matrix = torch.zeros(self.columns, len(low), dtype=torch.float64)
        constant, error = torch.zeros_like(low), low.abs() * FEW_ROUNDINGS
        for factor, expression in terms:
            matrix = matrix + expression.padded(self.columns) * factor
            constant = constant + expression.constant * factor
            lost = expression.error + FEW_ROUNDINGS * expression.size(reach)
            error = error + lost * (factor.abs() if isinstance(factor, Tensor) else abs(factor))
        self.rows.append((matrix, down(low - constant) - error))

    def highs_model(self, objective: Tensor, target: Tensor, margin: float) -> highspy.HighsLp | None:
        """The HiGHS model: maximize the objective, which must be at least ``target``.

        Args:
            objective: ``(columns,)``.
            target: a scalar.
            margin: how much easier the target is made, as a share of the objective's largest effect.

        Returns:
            The model; None if it has numbers that are NaN or infinite, about which nothing can be proved.
        """
        columns, reach = self.columns, self.reach
        blocks = [
            torch.cat([matrix, matrix.new_zeros(columns - matrix.shape[0], matrix.shape[1])]).T
            for matrix, _ in self.rows
        ]
        matrix = torch.cat([*blocks, objective[None]])
        low = torch.cat([*(row[1] for row in self.rows), target.reshape(1)])
        if not (torch.isfinite(matrix).all() and torch.isfinite(low).all() and torch.isfinite(reach).all()):
            return None
        matrix, low = scaled(matrix, low, reach)
        cost = matrix[-1]
        low[-1] -= margin
        total = matrix.abs() @ reach
        useful = low > -total  # a row that holds everywhere only costs time
        useful[-1] = True
        low = torch.minimum(low, 2 * total + 1)  # as infeasible as it was, and not infinite to the solver
        return self._model(matrix[useful], low[useful], cost)

    def _model(self, matrix: Tensor, low: Tensor, cost: Tensor) -> highspy.HighsLp:
        sparse = csr_matrix(matrix.numpy())
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.columns, len(low)
        lp.col_cost_ = cost.numpy()
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_lower_ = torch.cat(self.low).numpy()
        lp.col_upper_ = torch.cat(self.high).numpy()
        lp.row_lower_, lp.row_upper_ = low.numpy(), torch.full_like(low, torch.inf).numpy()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = sparse.indptr
        lp.a_matrix_.index_ = sparse.indices
        lp.a_matrix_.value_ = sparse.data
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in torch.cat(self.integer)]
        return lp


def scaled(matrix: Tensor, low: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``matrix @ columns >= low`` with a largest effect from 1 to 2, and no entry that the solver drops.

    Args:
        matrix: ``(rows, columns)``.
        low: ``(rows,)``.
        reach: the largest absolute value of each column.

    Returns:
        Rows that hold wherever the given ones do.
    """
    effect = matrix.abs() * reach
    largest = effect.amax(1)
    small = matrix.abs() < NEGLIGIBLE * largest[:, None]
    low = down(low - 2 * (effect * small).sum(1))
    # A row without entries is a statement about its bound alone.
    size = torch.where(largest > 0, largest, low.abs())
    _, exponent = torch.frexp(size)
    unit = 2.0 ** (exponent.double() - 1)  # a power of two divides without rounding
    matrix, low = matrix.masked_fill(small, 0.0) / unit[:, None], low / unit
    return matrix, torch.where(largest > 0, low - SLACK, low)


def select(x: Expression, where: Tensor) -> Expression:
    """The entries of a mask or index."""
    return Expression(x.matrix[:, where], x.constant[where], x.error[where])


def scatter(x: Expression, where: Tensor, new: Expression, columns: int, add: bool = False) -> Expression:
    """``x`` with the entries of ``where`` replaced by (or increased by) ``new``."""
    matrix, constant, error = x.padded(columns), x.constant.clone(), x.error.clone()
    if add:
        matrix[:, where] += new.padded(columns)
        constant[where] += new.constant
        error[where] += new.error
    else:
        matrix[:, where] = new.padded(columns)
        constant[where] = new.constant
        error[where] = new.error
    return Expression(matrix, constant, error)
