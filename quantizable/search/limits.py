"""What an assignment may cost: one limit, or several that hold together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantizable.bits import BitMode
from quantizable.search.costs import Cost

ROUNDING = 1e-9  # relative: sums of the same costs in another order differ by less


@dataclass(frozen=True)
class Limit:
    """One cost and the most that it may be, in the cost's unit."""

    cost: Cost
    most: float

    def share(self, modes: Mapping[str, BitMode]) -> float:
        """How much of the limit an assignment that names the mode of every layer takes; 1 is all of it."""
        return self.of(self.cost.total(modes))

    def of(self, cost: float) -> float:
        """A cost as a share of the limit."""
        return cost / self.most if self.most > 0 else (1.0 if cost <= self.most else float("inf"))


@dataclass(frozen=True)
class Budget:
    """Limits that an assignment keeps all at once.

    Attributes:
        limits: at least one; tables and pictures show the cost of the first.
        text: as the user wrote it, for tables and names of files.
    """

    limits: tuple[Limit, ...]
    text: str = ""

    @classmethod
    def of(cls, cost: Cost, most: float) -> Budget:
        """One limit."""
        return cls((Limit(cost, most),), f"{most:.4g} {cost.name}")

    @property
    def cost(self) -> Cost:
        """That of the first limit."""
        return self.limits[0].cost

    def costs(self, modes: Mapping[str, BitMode]) -> dict[str, float]:
        """What an assignment costs, by the name of the cost."""
        return {limit.cost.name: limit.cost.total(modes) for limit in self.limits}

    def over(self, modes: Mapping[str, BitMode]) -> tuple[Limit, ...]:
        """The limits that an assignment exceeds."""
        return tuple(limit for limit in self.limits if not limit.share(modes) <= 1 + ROUNDING)

    def holds(self, modes: Mapping[str, BitMode]) -> bool:
        """True if the assignment is within all limits."""
        return not self.over(modes)

    def __str__(self) -> str:
        return self.text
