"""Incremental certification: from a certified mode to another one on the same noise, with few samples.

Ugare et al., "Incremental Randomized Smoothing Certification", ICLR 2024 (IRS). Two bit modes of one
network give the same answer for most noisy images. How often they differ, zeta, is bounded from a few of the
samples on which the first mode was certified; the probability of the top class then is at least
``p_lower - zeta``. Only what the class loses counts here, samples on which the first mode gives it and the
second does not: what it gains cannot make its probability smaller, and differences between other classes
change nothing.

IRS chooses between that and certifying anew by ``p_lower``, which is computed from the very samples that
its bounds use. Here the choice looks at the selection samples alone. They are independent of the estimation
samples, so that for each image, whichever way it takes, the certificate is wrong with probability at most
``alpha + alpha_zeta``.

A bound of zeta from few samples takes more of the radius than a new certificate from as many, unless the
modes hardly differ (docs/results/search.md); the choice compares both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantizable.certify.certification import Certification
from quantizable.certify.smoothing import (
    ABSTAIN,
    ESTIMATION,
    CertifiedRadius,
    Classifier,
    Smoothing,
    check_samples,
    lower_bound,
    upper_bound,
)


@dataclass(frozen=True)
class Incremental:
    """How to certify a second mode from the certificates of a first.

    Args:
        smoothing: the settings of the first mode's certificates.
        samples: noisy images of the second mode, at least enough for ``alpha`` and at most ``smoothing.n``.
        alpha_zeta: largest probability that the bound of zeta is wrong, in (0, 1).
        gamma: from this share of selection samples on, a new certificate from ``samples`` alone is larger
            than what subtracting zeta leaves (0.99 for CIFAR, 0.995 for ImageNet in the paper).
        loss: the share of samples that the class is expected to lose, in [0, 1), by which both ways are
            compared below ``gamma``. A wrong one costs radius, and makes no certificate wrong.

    Raises:
        ValueError: a value out of range.
    """

    smoothing: Smoothing
    samples: int = 100
    alpha_zeta: float = 0.001
    gamma: float = 0.99
    loss: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.alpha_zeta < 1 or not 0.5 < self.gamma <= 1:
            raise ValueError(
                f"alpha_zeta is {self.alpha_zeta} (in (0, 1)) and gamma {self.gamma} (in (0.5, 1])"
            )
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is {self.loss}; it is a share of samples, in [0, 1)")
        if self.failure >= 1:
            raise ValueError(f"alpha + alpha_zeta is {self.failure}; together they must stay below 1")
        if self.samples > self.smoothing.n:
            raise ValueError(f"samples is {self.samples}, more than the {self.smoothing.n} of the first mode")
        check_samples(self.samples, self.failure, "samples")

    @property
    def failure(self) -> float:
        """The largest probability that the certificate of an image is wrong."""
        return self.smoothing.alpha + self.alpha_zeta

    def takes_own_samples(self, selected: float) -> bool:
        """True if a new certificate from ``samples`` promises more than the first mode's bound less zeta.

        Args:
            selected: the share of the first mode's selection samples that gave the class.
        """
        if selected >= self.gamma:
            return True
        n, m = self.smoothing.n, self.samples
        own = lower_bound(round(selected * m), m, self.failure)
        first = lower_bound(round(selected * n), n, self.smoothing.alpha)
        return own >= first - upper_bound(round(self.loss * m), m, self.alpha_zeta)

    def certify_like(
        self, classify: Classifier, run: Certification, x: Tensor, image: int
    ) -> CertifiedRadius:
        """:meth:`certify` for image number ``image`` of the first mode's run."""
        return self.certify(classify, x, image, run.results[image].certificate, run.votes(image))

    def certify(
        self, classify: Classifier, x: Tensor, image: int, first: CertifiedRadius, votes: Tensor
    ) -> CertifiedRadius:
        """The second mode's certificate for one image.

        Args:
            classify: the second mode, images ``[B, C, H, W]`` to logits ``[B, K]``.
            x: the image ``[C, H, W]``, normalized.
            image: its number, as in the first mode's run.
            first: the first mode's certificate.
            votes: the first mode's classes of the estimation samples, ``[n]``.
        """
        if first.predicted == ABSTAIN:
            return self.smoothing.certificate(0.0, first.top, first.selected, 0)
        own = self.smoothing.votes(classify, x, image, ESTIMATION, self.samples)
        if self.takes_own_samples(first.selected):
            p = lower_bound(int((own == first.top).sum()), self.samples, self.failure)
        else:
            lost = int(((own != first.top) & (votes[: self.samples] == first.top)).sum())
            p = max(0.0, first.p_lower - upper_bound(lost, self.samples, self.alpha_zeta))
        return self.smoothing.certificate(p, first.top, first.selected, self.samples)
