"""How unsure a row of class probabilities is, from that row alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def margin(p: Tensor) -> Tensor:
    """``1 - (p1 - p2)`` of the two largest of each row of ``[N, K]``; like all indicators, high where
    unsure."""
    top = p.topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])


def gini(p: Tensor) -> Tensor:
    """``1 - sum p^2``."""
    return 1 - p.square().sum(1)


def least_confidence(p: Tensor) -> Tensor:
    """``1 - p1``."""
    return 1 - p.amax(1)


def entropy(p: Tensor) -> Tensor:
    """``- sum p ln p``, in nats."""
    return torch.special.entr(p).sum(1)


INDICATORS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (margin, gini, least_confidence, entropy)
}
"""The four of Hu et al., CAIN 2023."""
