"""A question with its settings: what is asked of every box, and how a certificate writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantizable.verify.agreement import decide_agreement
from quantizable.verify.box import Box
from quantizable.verify.certificate import Certificate, certify
from quantizable.verify.decide import Verdict, check_query, decide
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph
from quantizable.verify.robustness import decide_robustness

Answers = list[tuple[tuple[int, ...], Verdict]]


@dataclass(frozen=True)
class Asked:
    """What is asked of each box, with the words of the command line."""

    question: str
    eps: float
    time_limit: float
    use_milp: bool
    execution: Execution = "real"
    confidence: float = 0.0
    branch: bool = False

    def answers(self, graphs: Sequence[Graph], box: Box, output: int) -> Answers:
        """The verdicts of one box, each with the indices of the networks it is about."""
        limits = (self.time_limit, self.use_milp)
        if self.question == "robustness":
            return [((0,), decide_robustness(graphs[0], box, output, *limits, **self._ways()))]
        if self.question == "agreement":
            others = {str(k): graph for k, graph in enumerate(graphs) if k > 0}
            found = decide_agreement(
                graphs[0], others, box, *limits, confidence=self.confidence, **self._ways()
            )
            return [((0, int(k)), verdict) for k, verdict in found.items()]
        first, second = graphs
        check_query(first, box, output, self.eps)
        return [((0, 1), decide(first, second, box, output, self.eps, *limits, **self._ways()))]

    def _ways(self) -> dict[str, Any]:
        return {"execution": self.execution, "branch": self.branch}

    def certificate(
        self,
        network: Path,
        graphs: Sequence[Graph],
        modes: list[str],
        box: Box,
        output: int,
        verdict: Verdict,
    ) -> Certificate:
        """A verdict with what it is about."""
        return certify(
            network,
            [graph.sha256 for graph in graphs],
            modes,
            kind=self.question,
            output=output,
            eps=self.eps,
            box=box,
            verdict=verdict,
            time_limit=self.time_limit,
            execution=self.execution,
            confidence=self.confidence,
        )
