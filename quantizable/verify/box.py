"""The set of inputs a statement is about: one axis-aligned box per batch entry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """All inputs ``x`` with ``low <= x <= high``, one box for each entry of the batch.

    Attributes:
        low, high: ``(batch, *input_shape)``, float64, in the network's input units.
        integer: inputs take whole numbers only (pixels 0..255). Bounds ignore it, since they
            hold for the reals too; a counterexample has to respect it.

    Raises:
        ValueError: no entries, shapes that differ, NaN or infinite limits, or low > high.
    """

    low: Tensor
    high: Tensor
    integer: bool = False

    def __post_init__(self) -> None:
        low, high = (torch.as_tensor(limit, dtype=torch.float64) for limit in (self.low, self.high))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        if low.shape != high.shape:
            raise ValueError(
                f"box limits differ in shape: low {tuple(low.shape)}, high {tuple(high.shape)}; "
                "both are (batch, *input_shape)"
            )
        if low.ndim < 2 or low.numel() == 0:
            raise ValueError(
                f"the box is empty: its limits have shape {tuple(low.shape)}, "
                "expected (batch, *input_shape) with at least one entry"
            )
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise ValueError("box limits must be finite numbers; found NaN or infinity")
        if (low > high).any():
            where = tuple((low > high).nonzero()[0].tolist())
            raise ValueError(
                f"the box is inverted: low {low[where].item():g} > high {high[where].item():g} "
                f"at index {where}; every low limit must be at most its high limit"
            )
        if self.integer and not (torch.equal(low, low.round()) and torch.equal(high, high.round())):
            raise ValueError("a box of whole numbers needs whole limits; round them inwards first")

    @classmethod
    def around(
        cls,
        centers: Tensor,
        radius: float,
        minimum: float = -float("inf"),
        maximum: float = float("inf"),
        integer: bool = False,
    ) -> Box:
        """``[center - radius, center + radius]`` clipped to ``[minimum, maximum]``.

        Args:
            centers: ``(batch, *input_shape)``.
            radius: at least 0, in the units of ``centers``.

        Raises:
            ValueError: a radius below 0, or a center that is not a legal input.
        """
        if not radius >= 0:
            raise ValueError(f"radius {radius} is not allowed; it must be 0 or more")
        if not minimum <= maximum:
            raise ValueError(f"no input is legal: minimum {minimum:g} is not below maximum {maximum:g}")
        centers = torch.as_tensor(centers, dtype=torch.float64)
        if (centers < minimum).any() or (centers > maximum).any():  # clipped, the box would be about another
            raise ValueError(
                f"inputs from {centers.min().item():g} to {centers.max().item():g} are not all in the legal "
                f"range from {minimum:g} to {maximum:g}; change the inputs or the range"
            )
        return cls(
            (centers - radius).clamp(minimum, maximum),
            (centers + radius).clamp(minimum, maximum),
            integer,
        )

    def __len__(self) -> int:
        return self.low.shape[0]

    def __getitem__(self, index: slice) -> Box:
        """A part of the batch; use a slice (``box[3:4]``), so that the batch axis stays."""
        return Box(self.low[index], self.high[index], self.integer)

    @property
    def center(self) -> Tensor:
        """Midpoint, ``(batch, *input_shape)``; rounded where the inputs are whole numbers."""
        middle = (self.low + self.high) / 2
        return middle.round() if self.integer else middle

    def nearest(self, x: Tensor) -> Tensor:
        """The allowed input nearest to ``x`` (clipped, and rounded for whole numbers)."""
        x = x.to(torch.float64).clamp(self.low, self.high)
        return x.round() if self.integer else x

    def contains(self, x: Tensor) -> Tensor:
        """Whether each ``x`` is an allowed input: ``(batch,)`` booleans."""
        inside = (x >= self.low) & (x <= self.high)
        if self.integer:
            inside = inside & (x == x.round())
        return inside.flatten(1).all(1)
