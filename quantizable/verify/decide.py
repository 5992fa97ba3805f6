"""Decide one query: is ``|second(x)_g - first(x)_g| < eps`` for every x of a box?

Cheap to expensive: difference bounds, a search for a counterexample, the MILP with relaxed
rounding, then the MILP with integers for the neurons where the relaxed solution cheats most. What is open
then is searched for the rest of the time.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds, difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.branching import Tree
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph
from quantizable.verify.integer_program import Status, beyond_program, by_program
from quantizable.verify.reach import Reach
from quantizable.verify.refutation import exceeds
from quantizable.verify.replay import Replay, search

PROOF = 0.75  # of the time, at most, for a proof; the rest is for a longer search
FIRST = 0.75  # of the time that is left for each question but the last


@dataclass(frozen=True)
class Verdict:
    """The answer to one query.

    Attributes:
        status: proved, refuted or unknown (out of time).
        method: what decided: ``bounds``, ``search``, ``milp`` (rounding relaxed), ``milp+N`` (N neurons with
            integers) or ``branching+N`` (branch and bound with N leaves left to the MILP); for unknown, the
            last that was tried.
        low, high: proved bounds of the quantity asked about.
        seconds: wall-clock time of this query.
        counterexample: the replayed input, if refuted.
    """

    status: Status
    method: str
    low: float
    high: float
    seconds: float
    counterexample: Replay | None = None


@dataclass(frozen=True)
class Question:
    """Can ``sign * (second - first)[output]`` reach ``target`` somewhere in the box?"""

    output: int
    sign: float
    target: float

    def weights(self, outputs: int) -> Tensor:
        """The question as a linear form of the output difference, ``(outputs,)``."""
        weights = torch.zeros(outputs, dtype=torch.float64)
        weights[self.output] = self.sign
        return weights

    def upper_bound(self, bounds: DifferenceBounds) -> float:
        """What the bounds of the first box say the quantity can reach at most."""
        low, high = (float(side[0].flatten()[self.output]) for side in bounds.output)
        return high if self.sign > 0 else -low


@dataclass(frozen=True)
class Query:
    """The arguments of one :func:`decide`, with a name to recognize it by."""

    name: str
    first: Graph
    second: Graph
    box: Box
    output: int
    eps: float
    time_limit: float = 60.0
    branch: bool = False


def decide(
    first: Graph,
    second: Graph,
    box: Box,
    output: int,
    eps: float,
    time_limit: float = 60.0,
    use_milp: bool = True,
    *,
    execution: Execution = "real",
    branch: bool = False,
) -> Verdict:
    """Prove or refute ``|second(x)[output] - first(x)[output]| < eps`` over one box.

    Args:
        box: one box (batch of 1).
        output: index of the output compared, usually the predicted class.
        eps: the allowed error, above 0, in units of the output.
        time_limit: seconds for the whole query.
        use_milp: False stops after bounds and search, as for networks that the MILP cannot encode: with max
            pooling, smooth activations, or too many neurons for its dense matrices.
        execution: what runs the networks, see :mod:`~quantizable.verify.execution`. The MILP is about
            ``"real"`` arithmetic; else bounds alone prove, and only what every run shows refutes.
        branch: split undecided neurons and bound the parts, with the MILP at the leaves only, see
            :mod:`~quantizable.verify.branching`.

    Raises:
        ValueError: ``eps`` not above 0 or infinite, an output index the network lacks, more than one box; see
            also :func:`~quantizable.verify.bounds.difference_bounds`.
    """
    check_query(first, box, output, eps)
    start = time.perf_counter()
    bounds = difference_bounds(first, second, box, execution=execution)
    low, high = (float(side[0].flatten()[output]) for side in bounds.output)
    questions = [Question(output, 1.0, eps), Question(output, -1.0, eps)]
    deadline = start + time_limit
    use_milp = use_milp and execution == "real"
    status, method, found = settle(
        first, second, box, bounds, questions, deadline, use_milp, branch=branch, execution=execution
    )
    real = found is None or execution == "real"
    if found is not None and not (
        real or exceeds(first, second, box, found, execution, output=output, eps=eps)
    ):
        status, found = "unknown", None
    return Verdict(status, method, low, high, time.perf_counter() - start, found)


def decide_all(queries: Sequence[Query], processes: int = 1) -> Iterator[tuple[Query, Verdict]]:
    """Decide several queries in parallel processes of one thread each, in order of completion."""
    if processes < 1:
        raise ValueError(f"processes {processes} is not allowed; it must be 1 or more")
    for query in queries:
        check_query(query.first, query.box, query.output, query.eps)
    # Spawned, not forked: torch's thread pool does not survive a fork.
    with ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        waiting = {pool.submit(_decide, query): query for query in queries}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def check_query(graph: Graph, box: Box, output: int, eps: float) -> None:
    """Raise ``ValueError`` for a question that makes no sense."""
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps {eps} is not allowed; the error bound must be above 0 and finite")
    outputs = graph.shapes[-1].numel()
    if not 0 <= output < outputs:
        raise ValueError(f"output {output} does not exist; the network has outputs 0 to {outputs - 1}")
    if len(box) != 1:
        raise ValueError(f"a query is about one box, not {len(box)}; pass box[i : i + 1]")


def settle(
    first: Graph,
    second: Graph,
    box: Box,
    bounds: DifferenceBounds,
    questions: Sequence[Question],
    deadline: float,
    use_milp: bool = True,
    *,
    branch: bool = False,
    execution: Execution = "real",
) -> tuple[Status, str, Replay | None]:
    """Refute if any question has the answer yes, prove if all have the answer no.

    Returns:
        The status, the method that decided, and the counterexample if refuted.
    """
    outputs = first.shapes[-1].numel()
    # not ">=": a bound that overflowed to NaN says nothing, so its question stays
    remaining = [q for q in questions if not q.upper_bound(bounds) < q.target]
    if not remaining:
        return "proved", "bounds", None
    nearest: dict[Question, Replay] = {}
    for question in remaining:
        weights = question.weights(outputs)
        starts = corners(first, second, box, question)
        nearest[question] = found = search(first, second, box, weights, starts, question.target)
        if found.value >= question.target:
            return "refuted", "search", found
    use_milp = use_milp and not beyond_program(first)
    if not (use_milp or branch):
        return "unknown", "search", None
    method = "search"
    begun = time.perf_counter()
    proof = begun + PROOF * (deadline - begun)
    remaining.sort(key=lambda question: question.upper_bound(bounds) - question.target)  # the easiest first
    for question in remaining:
        weights = question.weights(outputs)
        now = time.perf_counter()
        until = now + (proof - now) * (1.0 if question is remaining[-1] else FIRST)
        if branch:
            outcome = Tree(first, second, box, weights, question.target, execution).search(until, use_milp)
            status, method, witness = outcome.status, f"branching+{outcome.leaves}", outcome.found
        else:
            status, method, witness = by_program(first, second, box, bounds, weights, question.target, until)
        if status == "refuted":
            return status, method, witness
        if status == "proved":
            del nearest[question]
    now = time.perf_counter()
    deadline = min(deadline, now + (now - begun))  # no longer than the proof was tried
    by_gap = sorted(nearest.items(), key=lambda one: one[0].target - one[1].value)
    for question, found in by_gap:
        now = time.perf_counter()
        until = now + (deadline - now) * (1.0 if question is by_gap[-1][0] else FIRST)
        start, weights = found.x[None], question.weights(outputs)
        found = search(first, second, box, weights, start, question.target, seed=1, deadline=until)
        if found.value >= question.target:
            return "refuted", "search", found
    return ("unknown" if nearest else "proved"), method, None


def corners(first: Graph, second: Graph, box: Box, question: Question) -> Tensor:
    """Inputs worth trying first: the center, and where the symbolic bound has its maximum."""
    forms = []
    for graph, sign in ((first, -1.0), (second, 1.0)):
        weights = sign * question.weights(graph.shapes[-1].numel()).reshape(1, 1, 1, *graph.shapes[-1])
        forms.append(Reach(graph, box, "symbolic").finish().upper_of(len(graph.nodes), weights))
    return torch.cat([box.center, (forms[0] + forms[1]).maximizer(box)[:, 0]])


def _decide(query: Query) -> Verdict:
    what = (query.first, query.second, query.box, query.output, query.eps, query.time_limit)
    return decide(*what, branch=query.branch)
