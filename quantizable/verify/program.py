"""Columns and rows of a mixed-integer program, and linear expressions over its columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import highspy
import torch
from scipy.sparse import csr_matrix
from torch import Tensor


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
        self.rows.append((matrix, low - constant))

    def highs_model(self, objective: Tensor, target: float) -> highspy.HighsLp:
        """The HiGHS model: maximize the objective, which must be at least ``target``."""
        columns = self.columns
        blocks = [
            torch.cat([matrix, matrix.new_zeros(columns - matrix.shape[0], matrix.shape[1])]).T
            for matrix, _ in self.rows
        ]
        matrix = torch.cat([*blocks, objective[None]])
        low = torch.cat([*(row[1] for row in self.rows), torch.tensor([target]).double()])
        high = torch.full_like(low, torch.inf)
        sparse = csr_matrix(matrix.numpy())
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, len(low)
        lp.col_cost_ = objective.numpy()
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_lower_ = torch.cat(self.low).numpy()
        lp.col_upper_ = torch.cat(self.high).numpy()
        lp.row_lower_, lp.row_upper_ = low.numpy(), high.numpy()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = sparse.indptr
        lp.a_matrix_.index_ = sparse.indices
        lp.a_matrix_.value_ = sparse.data
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in torch.cat(self.integer)]
        return lp


def select(x: Expression, where: Tensor) -> Expression:
    """The entries of a mask or index."""
    return Expression(x.matrix[:, where], x.constant[where])


def scatter(x: Expression, where: Tensor, new: Expression, columns: int, add: bool = False) -> Expression:
    """``x`` with the entries of ``where`` replaced by (or increased by) ``new``."""
    matrix, constant = x.padded(columns), x.constant.clone()
    if add:
        matrix[:, where] += new.padded(columns)
        constant[where] += new.constant
    else:
        matrix[:, where] = new.padded(columns)
        constant[where] = new.constant
    return Expression(matrix, constant)
