"""What DiverGet's search pursues: outputs of the pair that differ, or behavior that was not seen before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quantizable.assess.agreement import js_distance

Score = Callable[[Tensor, Tensor], float]
"""Both models' probabilities ``[N, K]`` (the reference's first) on the inputs of one setting, to how good the
setting is; higher is better."""


class Fitness(Protocol):
    """A goal; what it remembers lives in the score that a search starts with."""

    @property
    def name(self) -> str:
        """Shown in tables."""

    def start(self) -> Score:
        """A score for one search."""


@dataclass(frozen=True)
class Divergence:
    """The mean Jensen-Shannon distance of the pair's outputs."""

    name: str = "JS"

    def start(self) -> Score:
        return lambda p, q: js_distance(p, q).mean().item()


class Surprise:
    """Distance-based surprise adequacy (Kim, Feldt and Yoo, ICSE 2019, sec. 3.2).

    The distance of an input's trace to the nearest reference trace of its class, as a multiple of that
    trace's own distance to the nearest of another class: 0 for a reference, about 1 and more near and beyond
    the boundaries between classes. The published trace is a hidden layer's; a pair of callables shows its
    outputs alone, so that here it is the last layer's, log-probabilities.

    Args:
        reference: the model's probabilities ``[M, K]`` on inputs like those that it was trained on.

    Raises:
        ValueError: the reference answers with fewer than two classes.
    """

    def __init__(self, reference: Tensor) -> None:
        self.traces, self.classes = self._trace(reference), reference.argmax(1)
        if len(self.classes.unique()) < 2:
            raise ValueError("surprise needs reference inputs of at least two predicted classes; use more")
        apart = torch.cdist(self.traces, self.traces)
        apart[self.classes[:, None] == self.classes] = float("inf")
        self.gap = apart.amin(1)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Surprise ``[N]``, at least 0, of inputs with these probabilities ``[N, K]``; infinite for a class
        that no reference input has."""
        apart = torch.cdist(self._trace(probabilities), self.traces)
        apart[probabilities.argmax(1)[:, None] != self.classes] = float("inf")
        nearest, which = apart.min(1)
        return nearest / self.gap[which]

    @staticmethod
    def _trace(probabilities: Tensor) -> Tensor:
        return probabilities.double().clamp_min(1e-12).log()  # 0 in float32 is further than any class matters


@dataclass(frozen=True)
class Coverage:
    """How many buckets of surprise of the quantized model a setting is the first of its search to reach.

    Args:
        surprise: of the quantized model.
        buckets: equal parts of the range from 0 to ``upper``; 1 000 up to 2 as in Kim et al., sec. 4.
        upper: what is more surprising counts for nothing.
    """

    surprise: Surprise
    buckets: int = 1000
    upper: float = 2.0
    name: str = "coverage"

    def start(self) -> Score:
        covered: set[int] = set()

        def score(p: Tensor, q: Tensor) -> float:
            values = self.surprise(q)
            reached = (values[values < self.upper] * (self.buckets / self.upper)).long().tolist()
            fresh = set(reached) - covered
            covered.update(fresh)
            return float(len(fresh))

        return score
