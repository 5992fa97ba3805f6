"""Certificates for a whole set of images, kept one by one, and the numbers that sum them up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from quantizable.certify.smoothing import ABSTAIN, CertifiedRadius, Classifier, Smoothing
from quantizable.interface.progress import progress
from quantizable.report.files import written_whole
from quantizable.storage.journal import Journal

NO_VOTE = -1
LOG = ["idx", "label", "predict", "radius", "correct", "time"]  # columns of a published log


@dataclass(frozen=True)
class Certified:
    """One image's certificate, its label and the seconds it took."""

    image: int
    label: int
    certificate: CertifiedRadius
    seconds: float

    @property
    def certified_radius(self) -> float:
        """The radius if the prediction is right, else 0: what ACR averages."""
        return self.certificate.radius if self.certificate.predicted == self.label else 0.0


def read_log(path: Path, sigma: float, samples: int) -> list[Certified]:
    """The certificates of a published log, to compare with: as the code of Cohen et al. writes it, and as
    those of its successors do, a line an image with tabs between ``idx label predict radius correct time``.

    A log says neither the lower bound of the probability, which follows from the radius, nor what the
    selection samples favored: ``selected`` is NaN.

    Args:
        path: the log.
        sigma: its standard deviation of the noise, above 0.
        samples: noisy images that it classified for each image.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such log, or a sigma that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; give that of the log, above 0")
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {path}")
    head, *lines = path.read_text().splitlines() or [""]
    if head.split("\t") != LOG:
        raise ValueError(
            f"{path} is no log of certificates; its first line must be {' '.join(LOG)}, with tabs"
        )
    found = []
    for number, line in enumerate(lines, 2):
        try:
            image, label, predicted, radius, _, seconds = line.split("\t")
            top, size = int(predicted), float(radius)
            certificate = CertifiedRadius(
                top, size, float(norm.cdf(size / sigma)) if top != ABSTAIN else 0.0, top, math.nan, samples
            )
            found.append(Certified(int(image), int(label), certificate, _seconds(seconds)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no certificate ({error})") from error
    return found


def _seconds(text: str) -> float:
    """Of ``0:00:12.5``, as Python writes a time."""
    hours, minutes, seconds = text.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def average_certified_radius(results: Sequence[Certified]) -> float:
    """ACR (Zhai et al., "MACER", ICLR 2020): mean over all images of the radius if right, else 0."""
    return float(np.mean([result.certified_radius for result in results]))


def certified_accuracy(results: Sequence[Certified], radius: float) -> float:
    """The share of images that are right and certified at ``radius`` or more; at 0: right, not abstained."""
    right = [r for r in results if r.certificate.predicted == r.label]
    return sum(r.certificate.radius >= radius for r in right) / len(results)


class Certification:
    """Certificates of one network in one assignment on one set of images, on disk.

    Args:
        folder: where ``<name>.jsonl`` and ``<name>.votes.npy`` lie or will lie.
        name: of the assignment, such as ``"4"``.
        smoothing: its settings.
        settings: what else makes two runs the same (network, images, assignment).

    Raises:
        ValueError: the folder holds results of other settings.
    """

    def __init__(self, folder: Path, name: str, smoothing: Smoothing, settings: dict[str, Any]) -> None:
        self.smoothing = smoothing
        same = {key: value for key, value in asdict(smoothing).items() if key != "batch"}
        self.journal = Journal(folder / f"{name}.jsonl", same | settings)
        self.results = {row["image"]: read_row(row) for row in self.journal.rows}
        self.votes_path = folder / f"{name}.votes.npy"

    def run(self, classify: Classifier, images: Tensor, labels: Tensor) -> list[Certified]:
        """Certify every image ``[N, C, H, W]`` (labels ``[N]``) that is not done yet; all results, in order.

        The votes on the estimation samples are kept too: incremental certification compares with them.
        """
        votes = self._open_votes(len(images))
        for image in [i for i in self.results if i < len(images) and (votes[i] == NO_VOTE).any()]:
            del self.results[image]  # its votes were lost: it is done again, from the same noise

        def certify(x: Tensor, image: int) -> CertifiedRadius:
            certificate, votes[image] = self.smoothing.certify(classify, x, image)
            votes.flush()
            return certificate

        return self.fill(certify, images, labels)

    def fill(
        self, certify: Callable[[Tensor, int], CertifiedRadius], images: Tensor, labels: Tensor
    ) -> list[Certified]:
        """Like :meth:`run`, with the certificate of image ``x``, number ``i``, from ``certify(x, i)``."""
        todo: Iterable[int] = [i for i in range(len(images)) if i not in self.results]
        for image in progress(todo, f"certifying {self.journal.path.stem}"):
            started = time.perf_counter()
            certificate = certify(images[image], image)
            result = Certified(image, int(labels[image]), certificate, time.perf_counter() - started)
            self.journal.add(asdict(result))
            self.results[image] = result
        return [self.results[i] for i in range(len(images))]

    def votes(self, image: int) -> Tensor:
        """The classes (int64 ``[n]``) of an image's estimation samples."""
        if image not in self.results:
            raise ValueError(f"image {image} is not certified yet")
        votes = np.load(self.votes_path, mmap_mode="r")[image].astype(np.int64)
        if (votes == NO_VOTE).any():
            raise ValueError(f"{self.votes_path} lacks the votes of image {image}: certify it once more")
        return torch.from_numpy(votes)

    def _open_votes(self, images: int) -> np.memmap:
        shape = (images, self.smoothing.n)
        if self.votes_path.is_file():
            held = np.lib.format.open_memmap(self.votes_path, mode="r+")
            if held.shape[1:] != (self.smoothing.n,):
                raise ValueError(
                    f"{self.votes_path} holds {held.shape[1:]} votes an image and not {self.smoothing.n}; "
                    "remove it or give another output folder"
                )
            if held.shape[0] >= images:
                return held
            kept = np.array(held)
        else:
            kept = np.zeros((0, self.smoothing.n), np.int16)
        with written_whole(self.votes_path) as temporary:
            grown = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.int16, shape=shape)
            grown[: len(kept)] = kept
            grown[len(kept) :] = NO_VOTE
            grown.flush()
        return grown


def read_row(row: dict[str, Any]) -> Certified:
    """An image's certificate, of a line of the file that :class:`Certification` keeps."""
    return Certified(row["image"], row["label"], CertifiedRadius(**row["certificate"]), row["seconds"])
