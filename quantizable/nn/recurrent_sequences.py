"""How the steps of several sequences lie in one tensor: side by side, or packed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.nn.recurrent_products import Product, QuantProduct
from quantizable.nn.recurrent_steps import State


class Sequences(NamedTuple):
    """How the steps of several sequences lie in one tensor.

    Attributes:
        batch: how many sequences.
        sizes: of packed ones how many take part in each step, falling; None: all, ``[B, T, features]``.
    """

    batch: int
    sizes: list[int] | None

    def steps(self, x: Tensor) -> list[Tensor]:
        """The parts of each step, ``[B_t, features]``."""
        return list(x.unbind(1) if self.sizes is None else x.split(self.sizes))

    def together(self, steps: list[Tensor]) -> Tensor:
        """One tensor again."""
        return torch.stack(steps, 1) if self.sizes is None else torch.cat(steps)

    def at(self, step: int, state: State) -> State:
        """The states of those sequences that take part in a step, of the states of all."""
        return state if self.sizes is None else tuple(part[: self.sizes[step]] for part in state)

    def change(self, step: int, state: State, first: State) -> tuple[State, list[State]]:
        """The states for a step, and of sequences that have ended; packed, fewer take part later.

        Args:
            step: its number.
            state: after the step before.
            first: of all sequences; read backwards, some begin later.
        """
        if self.sizes is None:
            return state, []
        held, wanted = len(state[0]), self.sizes[step]
        if wanted < held:
            return self.at(step, state), [tuple(part[wanted:] for part in state)]
        return joined(state, tuple(part[held:wanted] for part in first)) if wanted > held else state, []

    def share_samples(self, product: Product, x: Tensor, steps: int = 1) -> None:
        """Tell a quantized product how many of its calls, on average, are of one sequence.

        Args:
            product: gets ``x``, or a state at each step.
            x: the input, as it lies.
            steps: how many calls.
        """
        if isinstance(product, QuantProduct):
            product.share_sample(steps if self.sizes is None else x.shape[0] / self.batch)


def joined(state: State, other: State) -> State:
    """The states of two groups of sequences as those of one."""
    return tuple(torch.cat(both) for both in zip(state, other, strict=True))
