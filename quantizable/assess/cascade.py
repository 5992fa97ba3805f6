"""Choosing a guard, and what a cascade of two modes under it costs and gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_curve
from torch import Tensor

from quantizable.bits import BitMode
from quantizable.deploy.guard import Guard
from quantizable.measure.uncertainty import INDICATORS
from quantizable.nn.layer_modes import plain_mode


def choose_guard(
    low_mode: BitMode, high_mode: BitMode, low: Tensor, disagree: Tensor, indicator: str = "margin"
) -> Guard:
    """The guard whose threshold best tells disagreeing inputs from others (Youden: largest TPR - FPR).

    Args:
        low: the low mode's probabilities ``[N, K]``, on images that are not used to report the guard.
        disagree: mask ``[N]`` of the inputs that the guard should escalate; at least one True and one False.

    Raises:
        ValueError: all inputs disagree, or none does, or the indicator finds them no better than chance.
    """
    if not 0 < int(disagree.sum()) < len(disagree):
        raise ValueError("a threshold needs inputs on which the modes disagree, and some on which they agree")
    fpr, tpr, thresholds = roc_curve(disagree.numpy(), INDICATORS[indicator](low).double().numpy())
    best = int((tpr - fpr).argmax())
    if best == 0:  # the curve's first point, at an infinite threshold: escalate nothing
        raise ValueError(
            f"the {indicator} finds disagreeing inputs no better than chance: no threshold helps"
        )
    return Guard(plain_mode(low_mode), plain_mode(high_mode), float(thresholds[best]), indicator)


@dataclass(frozen=True)
class CascadePoint:
    """A cascade at one threshold: share escalated, accuracy, disagreement with the reference, mean bit
    operations."""

    threshold: float
    escalated: float
    accuracy: float
    disagreement: float
    bops: float


def cascade(
    low: Tensor,
    high: Tensor,
    reference: Tensor,
    labels: Tensor,
    bops: tuple[float, float],
    thresholds: Sequence[float],
    indicator: str = "margin",
) -> list[CascadePoint]:
    """What escalating costs and gains, per threshold.

    Args:
        low, high, reference: probabilities ``[N, K]``.
        labels: ``[N]``.
        bops: bit operations per image of the low and the high mode; an escalated image costs both.
        thresholds: of the indicator; :func:`thresholds_for` gives those of chosen shares.
    """
    score, wanted = INDICATORS[indicator](low), reference.argmax(1)
    points = []
    for threshold in thresholds:
        unsure = score >= threshold
        answer = torch.where(unsure, high.argmax(1), low.argmax(1))
        escalated = unsure.double().mean().item()
        points.append(
            CascadePoint(
                float(threshold),
                escalated,
                (answer == labels).double().mean().item(),
                (answer != wanted).double().mean().item(),
                bops[0] + escalated * bops[1],
            )
        )
    return points


def thresholds_for(low: Tensor, shares: Sequence[float], indicator: str = "margin") -> list[float]:
    """Thresholds that escalate about these shares (in [0, 1]) of the inputs."""
    score = INDICATORS[indicator](low).sort(descending=True).values
    counts = [round(share * len(score)) for share in shares]
    return [float(score[count - 1]) if count else float("inf") for count in counts]
