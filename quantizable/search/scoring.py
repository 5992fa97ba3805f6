"""How good an assignment is, measured on a fixed set of images, each measurement kept on disk.

A candidate needs no retraining: it is switched on, its norms are fitted if asked for, and it runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantizable.bits import BitMode
from quantizable.calibrate import active_batch_norms
from quantizable.certify.certification import (
    Certification,
    Certified,
    average_certified_radius,
    certified_accuracy,
)
from quantizable.certify.incremental import Incremental
from quantizable.interface.choices import OBJECTIVES
from quantizable.interface.errors import unknown
from quantizable.network import QuantizableNetwork
from quantizable.search.measures import Measure
from quantizable.search.quick_norms import QuickNorms
from quantizable.storage.digests import digest_network, digest_tensors
from quantizable.storage.journal import Journal

QUICK_IMAGES, QUICK_BATCHES = 256, 1  # of a quick look
BROKEN_KL = 1e6  # nats; of an assignment whose logits are not finite


LOWER_IS_BETTER = {"kl", "shifts", "proved"}
CERTIFIED, MEASURED = ("acr", "certified"), ("shifts", "proved")  # objectives that need something more


def value_of(score: Mapping[str, float], objective: str) -> float:
    """The objective in a score, turned so that higher is better."""
    return -score[objective] if objective in LOWER_IS_BETTER else score[objective]


def check_objective(objective: str) -> str:
    """The objective, or ``ValueError`` with those there are."""
    if objective not in OBJECTIVES:
        raise ValueError(unknown("objective", objective, OBJECTIVES))
    return objective


@contextmanager
def fitted_norms(network: QuantizableNetwork, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Norms fitted to the current assignment on ``inputs`` (none: as they are) within a ``with`` block."""
    kept = [(buffer, buffer.clone()) for norm in active_batch_norms(network) for buffer in norm.buffers()]
    try:
        if inputs:
            network.reestimate_norms(inputs, batches=len(inputs))
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


class Scorer:
    """Scores of assignments of one network: accuracy, agreement with the highest mode, KL from it, ACR.

    Args:
        network: in evaluation mode.
        images: ``[N, C, H, W]``, normalized, to measure accuracy, agreement and KL on.
        labels: ``[N]``.
        folder: where the scores are kept.
        norm_inputs: training batches to fit each candidate's norms with; none: the modes' own norms.
        incremental: settings of the certification; None: no ACR.
        robust_images: how many of the images, from the first on, to certify for the ACR.
        radius: at which the share of certified images is taken, in pixels of [0, 1].
        measures: what else to measure.
        batch: images per forward pass; 64 maps fit the caches of a CPU.
        clock: seconds, of which differences count; ``time.process_time`` where other programs run.

    Raises:
        ValueError: no images, none to certify, or the network has non-finite logits for them.
    """

    def __init__(
        self,
        network: QuantizableNetwork,
        images: Tensor,
        labels: Tensor,
        folder: Path,
        norm_inputs: Sequence[Tensor] = (),
        *,
        incremental: Incremental | None = None,
        robust_images: int = 20,
        radius: float = 0.25,
        measures: Sequence[Measure] = (),
        batch: int = 64,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if len(images) == 0:
            raise ValueError("there are no images to score assignments on")
        if robust_images < 1:
            raise ValueError(f"robust_images is {robust_images}; at least 1 is needed")
        self.network, self.labels, self.batch, self.clock = network, labels, batch, clock
        self.images = channels_last(images)
        self.norm_inputs = [channels_last(x) for x in norm_inputs]
        self.incremental = incremental
        self.robust_images = min(robust_images, len(images))
        settings: dict[str, Any] = {
            "network": digest_network(network),
            "images": digest_tensors([images, labels]),
            "norm_inputs": digest_tensors(self.norm_inputs),
        }
        if incremental is not None:
            settings |= {**asdict(incremental), "robust_images": self.robust_images, "radius": radius}
            settings["smoothing"].pop("batch")
        if measures:
            settings["measures"] = {measure.name: measure.settings for measure in measures}
        self.radius, self.measures = radius, measures
        self.name = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
        self.journal = Journal(folder / f"scores-{self.name}.jsonl", settings)
        self.known: dict[str, dict[str, float]] = {_key(r["bits"]): r["score"] for r in self.journal.rows}
        self.measured = 0  # assignments that were run, not read, by this process
        self.quick_norms: QuickNorms | None = None
        self.looks: Journal | None = None
        self.seen: dict[str, dict[str, float]] = {}
        top = network.modes[-1]
        with network.at_bits(top):
            self.reference = self._logits()
        if not torch.isfinite(self.reference).all():
            raise ValueError(f"mode {top.name} of the network gives logits that are not finite")
        self.first = self._certify_first(folder, top) if incremental is not None else None

    def __call__(self, assignment: Mapping[str, BitMode]) -> dict[str, float]:
        """``accuracy``, ``agreement``, ``kl`` (nats), ``seconds``, what else is measured, by name.

        With certification also ``acr`` and ``certified``, the share certified at the radius.
        """
        bits = {name: mode.name for name, mode in assignment.items()}
        if _key(bits) not in self.known:
            started = self.clock()
            with self.network.at_bits(assignment), fitted_norms(self.network, self.norm_inputs):
                score = self._measure()
            score["seconds"] = self.clock() - started
            self.journal.add({"bits": bits, "score": score})
            self.known[_key(bits)] = score
            self.measured += 1
        return self.known[_key(bits)]

    def quick(self, assignment: Mapping[str, BitMode]) -> dict[str, float]:
        """``kl`` (nats) and ``seconds`` of a quick look: fewer images, norms from :class:`QuickNorms`."""
        if self.looks is None:
            self.looks = Journal(
                self.journal.path.with_name(f"quick-{self.name}.jsonl"), self.journal.settings
            )
            self.seen = {_key(row["bits"]): row["score"] for row in self.looks.rows}
        bits = {name: mode.name for name, mode in assignment.items()}
        if _key(bits) not in self.seen:
            started = self.clock()
            if self.quick_norms is None:
                self.quick_norms = QuickNorms(self.network, self.norm_inputs[:QUICK_BATCHES])
            with self.network.at_bits(assignment), self.quick_norms.fitted():
                kl = self._divergence(self._logits(QUICK_IMAGES))
            self.seen[_key(bits)] = {"kl": kl, "seconds": self.clock() - started}
            self.looks.add({"bits": bits, "score": self.seen[_key(bits)]})
        return self.seen[_key(bits)]

    def _divergence(self, logits: Tensor) -> float:
        if not torch.isfinite(logits).all():  # worse than any that answers
            return BROKEN_KL
        wanted = self.reference[: len(logits)].log_softmax(1)
        return F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean", log_target=True).item()

    def _measure(self) -> dict[str, float]:
        logits = self._logits()
        if not torch.isfinite(logits).all():  # worse than any that answers
            nothing = {"accuracy": 0.0, "agreement": 0.0, "kl": BROKEN_KL}
            nothing |= dict.fromkeys(CERTIFIED, 0.0) if self.first is not None else {}
            return nothing | {measure.name: BROKEN_KL for measure in self.measures}
        answer = logits.argmax(1)
        score = {
            "accuracy": (answer == self.labels).double().mean().item(),
            "agreement": (answer == self.reference.argmax(1)).double().mean().item(),
            "kl": self._divergence(logits),
        }
        if self.first is not None:
            results = self.certify()
            score["acr"] = average_certified_radius(results)
            score["certified"] = certified_accuracy(results, self.radius)
        score |= {measure.name: measure.of(self.network) for measure in self.measures}
        return score

    def certify(self) -> list[Certified]:
        """Incremental certificates of the images for the assignment that the network is in."""
        assert self.incremental is not None
        assert self.first is not None
        results = []
        for i in range(self.robust_images):
            certificate = self.incremental.certify_like(self.network, self.first, self.images[i], i)
            results.append(Certified(i, int(self.labels[i]), certificate, 0.0))
        return results

    def _certify_first(self, folder: Path, top: BitMode) -> Certification:
        assert self.incremental is not None
        smoothing = self.incremental.smoothing
        about = {k: v for k, v in self.journal.settings.items() if k in ("network", "images")}
        first = Certification(folder, f"certified-{top.name}-{self.name}", smoothing, about)
        with self.network.at_bits(top):
            first.run(self.network, self.images[: self.robust_images], self.labels)
        return first

    @torch.inference_mode()
    def _logits(self, images: int | None = None) -> Tensor:
        return torch.cat([self.network(x).float() for x in self.images[:images].split(self.batch)])


def _key(bits: Mapping[str, str]) -> str:
    return ",".join(f"{name}={mode}" for name, mode in sorted(bits.items()))


def channels_last(x: Tensor) -> Tensor:
    """Images as they are a quarter faster on CPUs; inputs of another kind as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
