"""Randomized smoothing: the radius within which a smoothed classifier provably keeps its answer.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
section 3.2 (algorithms PREDICT and CERTIFY). The smoothed classifier g answers with the class that the
base classifier f gives most often for x + N(0, sigma^2 I). Noise is a function of (seed, image, sample), so
that another bit mode can be asked about the very same noisy images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import beta, binomtest, norm
from torch import Tensor

ABSTAIN = -1
BLOCK = 100  # samples that share a random generator; part of what a seed means
SELECTION, ESTIMATION = 0, 1  # two independent streams: one picks the class, one bounds its probability

Classifier = Callable[[Tensor], Tensor]


@lru_cache(100_000)
def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided Clopper-Pearson bound: the true probability is below it with probability <= alpha."""
    return 0.0 if successes == 0 else float(beta.ppf(alpha, successes, trials - successes + 1))


@lru_cache(100_000)
def upper_bound(successes: int, trials: int, alpha: float) -> float:
    """Exact one-sided Clopper-Pearson bound: the true probability is above it with probability <= alpha."""
    return 1.0 if successes == trials else float(beta.ppf(1 - alpha, successes + 1, trials - successes))


def radius(probability: float, sigma: float) -> float:
    """``sigma * Phi^-1(p)``, in the units of ``sigma``; 0 where the class has no majority (theorem 1)."""
    return sigma * float(norm.ppf(probability)) if probability > 0.5 else 0.0


@dataclass(frozen=True)
class CertifiedRadius:
    """What is known about one image.

    Attributes:
        predicted: the class that g keeps within ``radius``, or ``ABSTAIN``.
        radius: L2 radius in pixels of [0, 1]; 0 if abstained.
        p_lower: lower bound of the probability of ``top``.
        top: the class that the selection samples favored.
        selected: the share of selection samples that gave ``top``.
        samples: noisy images that the network classified.
    """

    predicted: int
    radius: float
    p_lower: float
    top: int
    selected: float
    samples: int


@dataclass(frozen=True)
class Smoothing:
    """The settings of a smoothed classifier and its certificates.

    Args:
        sigma: standard deviation of the noise, in pixels of [0, 1], above 0.
        n: samples that bound the probability.
        n0: samples that pick the class.
        alpha: largest probability that a certificate is wrong, in (0, 1).
        std: the data's standard deviations per channel, by which its images are divided; noise is too.
        seed: of the noise.
        batch: noisy images per forward pass; changes nothing but memory and speed (fast on a CPU: about
            100; on a GPU: 1000 and more).

    Raises:
        ValueError: a value out of range, or so few samples that even n equal answers certify nothing.
    """

    sigma: float
    n: int = 100_000
    n0: int = 100
    alpha: float = 0.001
    std: tuple[float, ...] = (1.0,)
    seed: int = 0
    batch: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(
                f"sigma is {self.sigma}; it is the noise's standard deviation, above 0, such as 0.25"
            )
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it is a probability between 0 and 1, such as 0.001")
        if self.n0 < 1 or self.batch < 1:
            raise ValueError(f"n0 is {self.n0} and batch {self.batch}; both are at least 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; it is an integer of at least 0")
        check_samples(self.n, self.alpha)

    def noise(self, image: int, stream: int, count: int, shape: torch.Size) -> Iterator[Tensor]:
        """The first ``count`` noise tensors of an image, in pieces ``[b, *shape]``, scaled as the data is."""
        scale = self.sigma / torch.tensor(self.std).reshape(-1, 1, 1)
        whole = max(1, self.batch // BLOCK)
        for first in range(0, math.ceil(count / BLOCK), whole):
            blocks = range(first, min(first + whole, math.ceil(count / BLOCK)))
            drawn = torch.cat([self._block(image, stream, block, shape) for block in blocks])
            yield drawn[: count - first * BLOCK] * scale

    def _block(self, image: int, stream: int, block: int, shape: torch.Size) -> Tensor:
        state = np.random.SeedSequence([self.seed, image, stream, block]).generate_state(1, np.uint64)
        return torch.randn((BLOCK, *shape), generator=torch.Generator().manual_seed(int(state[0] >> 1)))

    @torch.inference_mode()
    def votes(self, classify: Classifier, x: Tensor, image: int, stream: int, count: int) -> Tensor:
        """The classes (int64 ``[count]``) that the base classifier gives to noisy copies of an image.

        Args:
            classify: images ``[B, C, H, W]`` to logits ``[B, K]``.
            x: one image ``[C, H, W]``, normalized.
            image: its number, which decides the noise.
            stream: ``SELECTION`` or ``ESTIMATION``.
            count: how many copies.

        Raises:
            ValueError: logits that are not finite, whose largest is no answer.
        """
        pieces = []
        for noise in self.noise(image, stream, count, x.shape):
            noisy = (x + noise.to(x)).contiguous(memory_format=torch.channels_last)  # faster on CPUs
            logits = classify(noisy)
            if not torch.isfinite(logits).all():
                raise ValueError(
                    f"the network gives logits that are not finite for noisy copies of image {image}"
                )
            pieces.append(logits.argmax(1).cpu())
        return torch.cat(pieces)

    def select(self, classify: Classifier, x: Tensor, image: int) -> tuple[int, float]:
        """The most frequent class of ``n0`` samples and its share."""
        counts = self.votes(classify, x, image, SELECTION, self.n0).bincount()
        top = int(counts.argmax())
        return top, float(counts[top]) / self.n0

    def certify(self, classify: Classifier, x: Tensor, image: int = 0) -> tuple[CertifiedRadius, Tensor]:
        """CERTIFY: a radius that holds with probability at least ``1 - alpha``, and all ``n`` votes."""
        top, selected = self.select(classify, x, image)
        votes = self.votes(classify, x, image, ESTIMATION, self.n)
        p = lower_bound(int((votes == top).sum()), self.n, self.alpha)
        return self.certificate(p, top, selected, self.n0 + self.n), votes

    def certificate(self, p_lower: float, top: int, selected: float, samples: int) -> CertifiedRadius:
        """The certificate that follows from a lower bound of the top class's probability."""
        predicted = top if p_lower > 0.5 else ABSTAIN
        return CertifiedRadius(predicted, radius(p_lower, self.sigma), p_lower, top, selected, samples)

    def predict(self, classify: Classifier, x: Tensor, image: int = 0) -> int:
        """PREDICT: the class of g, wrong with probability <= ``alpha``; ``ABSTAIN`` if too close to call."""
        counts = self.votes(classify, x, image, ESTIMATION, self.n).bincount(minlength=2)
        (first, second), classes = counts.topk(2)
        p_value = binomtest(int(first), int(first + second), 0.5).pvalue
        return int(classes[0]) if p_value <= self.alpha else ABSTAIN


def check_samples(n: int, alpha: float, name: str = "n") -> None:
    """``ValueError`` if ``n`` samples, all right, cannot prove a majority at level ``alpha``."""
    needed = math.floor(math.log(alpha) / math.log(0.5)) + 1
    if n < needed:
        raise ValueError(
            f"{name} is {n}: if all agree, nothing is proved at alpha={alpha:g}; needed are at least {needed}"
        )
