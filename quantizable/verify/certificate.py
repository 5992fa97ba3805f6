"""A certificate: everything needed to recompute a verdict and compare it.

It is JSON with the hash of the network file and of both stage lists, the modes, the input box,
the bound, the method, the versions of the tools and the time it took.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizable.report.files import write_text
from quantizable.verify.box import Box
from quantizable.verify.decide import Verdict
from quantizable.verify.execution import check_execution
from quantizable.verify.graph import Graph
from quantizable.verify.robustness import margin_layer

FORMAT = 2
TOOLS = ("quantizable", "torch", "highspy")
SAME = 1e-9  # relative; an absolute tolerance would confirm anything about a network of small outputs


@dataclass(frozen=True)
class Certificate:
    """One verdict, with what it is about.

    Attributes:
        network: path of the network file as given; network_sha256: of its bytes.
        stages_sha256: hashes of the two networks' stages and numbers.
        modes: the two modes compared, as ``quantizable verify`` takes them.
        property: ``"difference"`` (output ``output`` differs by less than ``eps``),
            ``"robustness"`` (class ``output`` cannot change; ``eps`` is 0) or ``"agreement"`` (both modes
            give one class; ``eps`` is 0).
        low, high: limits of the input box, flattened; integer: whole-number inputs.
        execution: for what it holds: ``"real"`` arithmetic, ``"float32"`` or the ``"integers"`` of the
            export (:mod:`~quantizable.verify.execution`).
        confidence: of agreement, the probability that the first mode gives its class at least; 0: any.
        status, method, bound, seconds: of the verdict; ``bound`` is [low, high].
        counterexample: the input, flattened, with both outputs, if refuted.
    """

    network: str
    network_sha256: str
    stages_sha256: list[str]
    modes: list[str]
    property: str
    output: int
    eps: float
    input_shape: list[int]
    low: list[float]
    high: list[float]
    integer: bool
    status: str
    method: str
    bound: list[float]
    seconds: float
    time_limit: float
    counterexample: dict[str, list[float]] | None = None
    tools: dict[str, str] = field(default_factory=dict)
    execution: str = "real"
    confidence: float = 0.0
    format: int = FORMAT

    @builtins.property
    def box(self) -> Box:
        """The input box (batch of 1)."""
        shape = (1, *self.input_shape)
        low, high = (torch.tensor(x, dtype=torch.float64).reshape(shape) for x in (self.low, self.high))
        return Box(low, high, self.integer)

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a certificate.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a certificate, parts of it that do not fit each other, or a newer format.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no certificate {path}")
        try:
            values = json.loads(path.read_text())
            found = values["format"]
            if found <= FORMAT:
                certificate = cls(**values)
                certificate.check()
                return certificate
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no certificate of quantizable verify: {error}") from error
        raise ValueError(f"{path} has format {found}, newer than {FORMAT}: update quantizable")

    def check(self) -> None:
        """Raise an error where the parts do not fit each other, so that nothing else is recomputed in their
        place."""
        if len(self.modes) != {"difference": 2, "robustness": 1, "agreement": 2}[self.property]:
            raise ValueError(f"{len(self.modes)} modes do not fit the property {self.property}")
        check_execution(self.execution)
        for name in ("output", "eps", "time_limit", "confidence"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"its {name} is no number")
        if len([float(limit) for limit in self.bound]) != 2:
            raise ValueError("the bound is not a pair of numbers")
        if (self.status == "refuted") != (self.counterexample is not None):
            raise ValueError(f"a counterexample and the status {self.status} do not fit")
        self.box.contains(self.counterexample_input())

    def counterexample_input(self) -> Tensor:
        """The refuting input (batch of 1), the box's middle where there is none."""
        if self.counterexample is None:
            return self.box.center
        values = torch.tensor(self.counterexample["input"], dtype=torch.float64)
        return values.reshape(1, *self.input_shape)


def certify(
    network: Path,
    stages_sha256: list[str],
    modes: list[str],
    *,
    kind: str,
    output: int,
    eps: float,
    box: Box,
    verdict: Verdict,
    time_limit: float,
    execution: str = "real",
    confidence: float = 0.0,
) -> Certificate:
    """Put a verdict into a certificate (``box`` is a batch of 1)."""
    found = verdict.counterexample
    return Certificate(
        network=str(network),
        network_sha256=file_sha256(network),
        stages_sha256=stages_sha256,
        modes=modes,
        property=kind,
        output=output,
        eps=eps,
        input_shape=list(box.low.shape[1:]),
        low=box.low.flatten().tolist(),
        high=box.high.flatten().tolist(),
        integer=box.integer,
        status=verdict.status,
        method=verdict.method,
        bound=[verdict.low, verdict.high],
        seconds=round(verdict.seconds, 3),
        time_limit=time_limit,
        counterexample=None
        if found is None
        else {
            "input": found.x.flatten().tolist(),
            "first": found.first.tolist(),
            "second": found.second.tolist(),
        },
        tools=tool_versions(),
        execution=execution,
        confidence=confidence,
    )


def differences(old: Certificate, new: Certificate, scale: float) -> list[str]:
    """What a recomputed certificate has different; empty if it confirms the old one.

    Another machine may sum in another order, so bounds count as equal within 1e-9 of ``scale``, the size
    of the networks' outputs.
    """
    problems = []
    for name in ("network_sha256", "stages_sha256", "status"):
        if getattr(old, name) != getattr(new, name):
            problems.append(f"{name}: certificate {getattr(old, name)}, now {getattr(new, name)}")
    for name, a, b in zip(("low", "high"), old.bound, new.bound, strict=True):
        if not (a == b or abs(a - b) <= SAME * scale):  # NaN, too, is no confirmation
            problems.append(f"bound {name}: certificate {a!r}, now {b!r}")
    return problems


def replayed(certificate: Certificate, graphs: Sequence[Graph]) -> list[str]:
    """What a certificate's own counterexample does not show when the networks run it; empty if it holds.

    Another machine may find another counterexample, so that it is run and not compared.
    """
    if certificate.counterexample is None:
        return []
    x, output = certificate.counterexample_input(), certificate.output
    if not certificate.box.contains(x).all():
        return ["the counterexample lies outside the box"]
    noise = SAME * output_scale(graphs, x)
    if len(graphs) == 2:
        first, second = (graph(x).flatten() for graph in graphs)
        shown = float((second - first)[output].abs()) >= certificate.eps - noise
        if certificate.property == "agreement":
            sure = float(first.softmax(0).max()) >= certificate.confidence - SAME
            shown = sure and bool(first.argmax() != second.argmax())
    else:
        second = graphs[0].then(margin_layer(graphs[0].shapes[-1].numel(), output))(x).flatten()
        first, shown = torch.zeros_like(second), float(second.min()) <= noise
    problems = [] if shown else ["the counterexample refutes nothing when it is replayed"]
    for name, now in (("first", first), ("second", second)):
        then = torch.tensor(certificate.counterexample[name], dtype=torch.float64)
        if then.shape != now.shape or not torch.allclose(then, now, rtol=SAME, atol=noise):
            problems.append(f"the counterexample's {name} outputs are others when it is replayed")
    return problems


def output_scale(graphs: Sequence[Graph], x: Tensor) -> float:
    """The largest output of the networks at ``x``, a batch of 1: what rounding errors are relative to."""
    return max(float(graph(x).abs().max()) for graph in graphs)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tool_versions() -> dict[str, str]:
    """Versions of what a verdict depends on; tools that are not installed are left out."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found
