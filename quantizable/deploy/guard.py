"""A guard: run the low mode, and ask the high mode again where the low one is unsure."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from quantizable.measure.uncertainty import INDICATORS
from quantizable.report.files import write_json
from quantizable.storage.outputs import only_tensor


class Switchable(Protocol):
    """A network in PyTorch, or a :class:`quantizable.deploy.Session` on an engine."""

    def at_bits(self, bits: Any) -> AbstractContextManager[Any]:
        """Switch for the length of a ``with`` block."""

    def __call__(self, images: Tensor) -> Any:
        """Logits ``[B, K]`` of normalized images, a tensor or an array."""


@dataclass(frozen=True)
class Guard:
    """When to escalate an input from one mode of a network to another.

    ``quantizable assess`` chooses the threshold and writes ``guard.json``.

    Args:
        low, high: modes, as ``set_bits`` takes them.
        threshold: escalate where the indicator of the low mode's probabilities is at least this.
        indicator: a key of ``INDICATORS``.

    Raises:
        ValueError: an unknown indicator, or a threshold that is no number.

    >>> guard = Guard.load("guard.json")                                        # doctest: +SKIP
    >>> rows, escalated = guard.predict(Session("model.qz"), images)            # doctest: +SKIP
    """

    low: int | str
    high: int | str
    threshold: float
    indicator: str = "margin"

    def __post_init__(self) -> None:
        if self.indicator not in INDICATORS:
            raise ValueError(f"indicator {self.indicator!r} is unknown; choose from {', '.join(INDICATORS)}")
        if not isinstance(self.threshold, int | float) or math.isnan(self.threshold):
            raise ValueError(f"threshold {self.threshold!r} is no number; quantizable assess chooses one")

    def escalates(self, low: Tensor) -> Tensor:
        """Mask ``[N]`` of the inputs to escalate, from the low mode's probabilities ``[N, K]``."""
        return INDICATORS[self.indicator](low) >= self.threshold

    def predict(self, model: Switchable, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities ``[B, K]`` of normalized images, and the mask ``[B]`` of those that were escalated.

        Raises:
            ValueError: the model lacks a mode.
        """
        rows = _ask(model, self.low, images)
        unsure = self.escalates(rows)
        if unsure.any():
            rows[unsure] = _ask(model, self.high, images[unsure])
        return rows, unsure

    def save(self, path: Path) -> None:
        """Write the guard as JSON: what a deployment needs beside the network."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Guard:
        """Read what :meth:`save` wrote; ``ValueError`` if it is no guard."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (ValueError, TypeError) as error:  # no JSON, no text at all, or what the class refuses
            raise ValueError(f"{path} is no guard: {error}") from error


def _ask(model: Switchable, mode: int | str, images: Tensor) -> Tensor:
    with model.at_bits(mode), torch.no_grad():
        answer = only_tensor(model(images), "a guard")
        return torch.as_tensor(answer).float().softmax(1)
