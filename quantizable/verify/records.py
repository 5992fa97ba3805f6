"""The verdicts of one command: each is written as a certificate when it comes, and can be read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from quantizable.verify.asked import Answers, Asked
from quantizable.verify.certificate import Certificate, file_sha256
from quantizable.verify.decide import Verdict
from quantizable.verify.graph import Graph
from quantizable.verify.jobs import Job, not_asked
from quantizable.verify.outcomes import Named
from quantizable.verify.replay import Replay


@dataclass
class Report:
    """Collects verdicts by input and mode.

    Attributes:
        network: path of the network file.
        inputs: name of the inputs.
        graphs, modes: what is compared.
        which: indices of the networks that each verdict of a box is about.
        folder: for certificates; None: nothing is written.
    """

    network: Path
    inputs: str
    graphs: Sequence[Graph]
    modes: Sequence[str]
    which: Sequence[tuple[int, ...]]
    folder: Path | None
    found: dict[tuple[int, tuple[int, ...]], Named] = field(default_factory=dict)

    def name(self, index: int, output: int) -> str:
        """An input as the table calls it."""
        return f"{self.inputs}[{index}] class {output}"

    def add(self, asked: Asked, job: Job, answers: Answers) -> None:
        """Take a box's verdicts and write their certificates."""
        for which, verdict in answers or [(which, not_asked()) for which in self.which]:
            known = self._known(job, which) if verdict.status == "unknown" else None
            self._keep(job, which, known or verdict)
            if self.folder is not None and answers and known is None:  # what was decided stays decided
                about = [self.graphs[k] for k in which], [self.modes[k] for k in which]
                certificate = asked.certificate(self.network, *about, job.box, job.output, verdict)
                certificate.save(self._file(job, which))

    def check_folder(self, asked: Asked, jobs: Sequence[Job]) -> None:
        """``ValueError`` if the folder holds a certificate of another question."""
        if self.folder is None:
            return
        own = {self._file(job, which): (job, which) for job in jobs for which in self.which}
        for path in sorted(self.folder.glob("certificate-*.json")):
            if path not in own or not self._is_of(Certificate.load(path), asked, *own[path]):
                raise ValueError(
                    f"{path} is of another question: another network, mode, input, radius or setting; give "
                    "another --output, or remove it"
                )

    def resume(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that no certificate in the folder decides; what the others found is taken from there."""
        left = []
        for job in jobs:
            known = [self._known(job, which) for which in self.which]
            if any(verdict is None for verdict in known):
                left.append(job)
                continue
            for which, verdict in zip(self.which, known, strict=True):
                assert verdict is not None
                self._keep(job, which, verdict)
        return left

    def results(self) -> list[Named]:
        """All verdicts, by input and mode."""
        return [self.found[key] for key in sorted(self.found)]

    def _keep(self, job: Job, which: tuple[int, ...], verdict: Verdict) -> None:
        label = f" mode {self.modes[which[-1]]}" if len(self.modes) > 2 else ""
        self.found[job.index, which] = (self.name(job.index, job.output) + label, verdict)

    def _file(self, job: Job, which: tuple[int, ...]) -> Path:
        assert self.folder is not None
        mode = f"-{Path(self.modes[which[-1]]).stem}" if len(self.modes) > 2 else ""
        return self.folder / f"certificate-{job.index}{mode}.json"

    def _known(self, job: Job, which: tuple[int, ...]) -> Verdict | None:
        """What the folder's certificate decided, if it did."""
        if self.folder is None or not self._file(job, which).is_file():
            return None
        old = Certificate.load(self._file(job, which))
        return verdict_of(old) if old.status != "unknown" else None

    @cached_property
    def _network_sha256(self) -> str:
        return file_sha256(self.network)

    def _is_of(self, old: Certificate, asked: Asked, job: Job, which: tuple[int, ...]) -> bool:
        """Whether a certificate is of this question, whatever was answered."""
        box = old.box
        return (
            old.network_sha256 == self._network_sha256
            and old.stages_sha256 == [self.graphs[k].sha256 for k in which]
            and (old.property, old.output, old.eps) == (asked.question, job.output, asked.eps)
            and (old.execution, old.confidence) == (asked.execution, asked.confidence)
            and (torch.equal(box.low, job.box.low) and torch.equal(box.high, job.box.high))
            and box.integer == job.box.integer
        )


def verdict_of(certificate: Certificate) -> Verdict:
    """The verdict that a certificate was written of."""
    found = certificate.counterexample
    replayed = None
    if found is not None:
        first, second = (torch.tensor(found[key], dtype=torch.float64) for key in ("first", "second"))
        difference = (second - first)[certificate.output] if certificate.property == "difference" else 0.0
        replayed = Replay(certificate.counterexample_input()[0], first, second, float(difference))
    low, high = certificate.bound
    return Verdict(certificate.status, certificate.method, low, high, certificate.seconds, replayed)  # type: ignore[arg-type]
