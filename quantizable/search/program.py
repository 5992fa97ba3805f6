"""The 0-1 program behind a search: one mode for each layer, limits on what they cost, least damage (HiGHS).

As HAWQ-V3 (Yao et al., ICML 2021, section 3.4), with damage of pairs of modes besides, as CLADO (Deng et al.,
2023) has it. The product of two 0-1 variables is a third one, y, with y <= a, y <= b and y >= a + b - 1
(McCormick, 1976), so that the program stays linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Pair = tuple[int, int, int, int]  # layer, mode, another layer, its mode


@dataclass(frozen=True)
class Within:
    """A sum of costs ``[layers, modes]`` that must not exceed ``most``."""

    costs: np.ndarray
    most: float


class AssignmentProgram:
    """Lists the assignments of least damage within limits, one after another.

    Args:
        damage: of each mode of each layer, ``[layers, modes]``, smaller is better.
        limits: on the sums of costs.
        pairs: what two modes of two layers do together, beside what each does alone.
        nodes: the most that one solution may branch, 0: no end; what was found by then counts.
    """

    def __init__(
        self,
        damage: np.ndarray,
        limits: Sequence[Within],
        pairs: Mapping[Pair, float] | None = None,
        nodes: int = 0,
    ) -> None:
        self.layers, self.modes = damage.shape
        pairs = pairs or {}
        self.size, self.nodes = damage.size, nodes
        self.objective = np.concatenate([damage.ravel(), [*pairs.values()]])
        one_mode = np.kron(np.eye(self.layers), np.ones(self.modes))
        self.constraints = [LinearConstraint(self._padded(one_mode), 1, 1)]
        for limit in limits:
            scale = max(np.abs(limit.costs).max(), 1e-12)  # the solver's tolerances are absolute
            row = self._padded(limit.costs.reshape(1, -1) / scale)
            self.constraints.append(LinearConstraint(row, -np.inf, limit.most / scale))
        if pairs:
            self.constraints.append(self._products([*pairs]))

    def solve(self) -> np.ndarray | None:
        """The mode of each layer, ``[layers]``, in the best assignment not excluded; None: there is none."""
        kinds = np.concatenate([np.ones(self.size), np.zeros(len(self.objective) - self.size)])
        # exact, as the next best is asked for; equal costs within the solver's tolerance may swap places
        options = {"mip_rel_gap": 0} | ({"node_limit": self.nodes} if self.nodes else {})
        result = milp(self.objective, integrality=kinds, bounds=Bounds(0, 1),
                      constraints=self.constraints, options=options)  # fmt: skip
        if result.x is None:
            return None
        chosen: np.ndarray = result.x[: self.size].reshape(self.layers, -1).argmax(1)
        return chosen

    def exclude(self, chosen: Sequence[int] | np.ndarray) -> None:
        """Cut one assignment off: not all of its layers may keep their modes."""
        row = np.zeros((self.layers, self.modes))
        row[np.arange(self.layers), chosen] = 1
        self.constraints.append(LinearConstraint(self._padded(row.reshape(1, -1)), -np.inf, self.layers - 1))

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, 0), (0, len(self.objective) - self.size)))

    def _products(self, pairs: Sequence[Pair]) -> LinearConstraint:
        rows, upper = [], []
        for k, (i, m, j, n) in enumerate(pairs):
            a, b, y = i * self.modes + m, j * self.modes + n, self.size + k
            rows += [{y: 1, a: -1}, {y: 1, b: -1}, {y: -1, a: 1, b: 1}]
            upper += [0, 0, 1]
        entries = [(r, column, value) for r, row in enumerate(rows) for column, value in row.items()]
        r, column, value = map(np.array, zip(*entries, strict=True))
        matrix = csr_array((value, (r, column)), shape=(len(rows), len(self.objective)), dtype=float)
        return LinearConstraint(matrix, -np.inf, np.array(upper, float))
