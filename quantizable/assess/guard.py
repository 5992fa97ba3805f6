"""A guard: run the low mode, and ask the high mode again where the low one is unsure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.metrics import roc_curve
from torch import Tensor

from quantizable.assess.indicators import INDICATORS
from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork, plain
from quantizable.results import write_json


@dataclass(frozen=True)
class Guard:
    """When to escalate an input from one mode of a network to another.

    Args:
        low, high: modes, as ``set_bits`` takes them.
        threshold: escalate where the indicator of the low mode's probabilities is at least this.
        indicator: a key of ``INDICATORS``.
    """

    low: int | str
    high: int | str
    threshold: float
    indicator: str = "margin"

    def __post_init__(self) -> None:
        if self.indicator not in INDICATORS:
            raise ValueError(f"indicator {self.indicator!r} is unknown; choose from {', '.join(INDICATORS)}")

    def escalates(self, low: Tensor) -> Tensor:
        """Mask ``[N]`` of the inputs to escalate, from the low mode's probabilities ``[N, K]``."""
        return INDICATORS[self.indicator](low) >= self.threshold

    def predict(self, network: QuantizableNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities ``[B, K]`` of normalised images, and the mask ``[B]`` of those that were
        escalated."""
        with network.at_bits(self.low):
            rows = network(images).float().softmax(1)
        unsure = self.escalates(rows)
        if unsure.any():
            with network.at_bits(self.high):
                rows[unsure] = network(images[unsure]).float().softmax(1)
        return rows, unsure

    def save(self, path: Path) -> None:
        """Write the guard as JSON: what a deployment needs beside the network."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Guard:
        """Read what :meth:`save` wrote; ``ValueError`` if it is no guard."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path} is no guard: {error}") from error


def choose_guard(
    low_mode: BitMode, high_mode: BitMode, low: Tensor, disagree: Tensor, indicator: str = "margin"
) -> Guard:
    """The guard whose threshold best tells disagreeing inputs from others (Youden: largest TPR - FPR).

    Args:
        low: the low mode's probabilities ``[N, K]``, on images that are not used to report the guard.
        disagree: mask ``[N]`` of the inputs that the guard should escalate; at least one True and one False.

    Raises:
        ValueError: all inputs disagree, or none does.
    """
    if not 0 < int(disagree.sum()) < len(disagree):
        raise ValueError("a threshold needs inputs on which the modes disagree, and some on which they agree")
    fpr, tpr, thresholds = roc_curve(disagree.numpy(), INDICATORS[indicator](low).double().numpy())
    best = int((tpr - fpr).argmax())
    return Guard(plain(low_mode), plain(high_mode), float(thresholds[best]), indicator)


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
