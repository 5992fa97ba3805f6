"""Decide one query: is ``|second(x)_g - first(x)_g| < eps`` for every x of a box?

Cheap to expensive: difference bounds, a search for a counterexample, the MILP with relaxed
rounding, then the MILP with integers for the neurons where the relaxed solution cheats most.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantizable.verify.bounds import DifferenceBounds, difference_bounds
from quantizable.verify.box import Box
from quantizable.verify.graph import Graph
from quantizable.verify.influence import influences
from quantizable.verify.milp import Neuron, PairProgram
from quantizable.verify.reach import Reach
from quantizable.verify.replay import Replay, search

Status = Literal["proved", "refuted", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one query.

    Attributes:
        status: proved, refuted or unknown (out of time).
        method: what decided: ``bounds``, ``search``, ``milp`` (rounding relaxed) or
            ``milp+N`` (N neurons with integers); for unknown, the last that was tried.
        low, high: proved bounds of the difference of output ``g``.
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
class Query:
    """The arguments of one :func:`decide`, with a name to recognise it by."""

    name: str
    first: Graph
    second: Graph
    box: Box
    output: int
    eps: float
    time_limit: float = 60.0


def decide_all(queries: Sequence[Query], processes: int = 1) -> Iterator[tuple[Query, Verdict]]:
    """Decide several queries in parallel processes of one thread each, in order of completion."""
    if processes < 1:
        raise ValueError(f"processes {processes} is not allowed; it must be 1 or more")
    # Spawned, not forked: torch's thread pool does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(_decide, query): query for query in queries}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def _decide(query: Query) -> Verdict:
    return decide(query.first, query.second, query.box, query.output, query.eps, query.time_limit)


def decide(
    first: Graph,
    second: Graph,
    box: Box,
    output: int,
    eps: float,
    time_limit: float = 60.0,
    use_milp: bool = True,
) -> Verdict:
    """Prove or refute ``|second(x)[output] - first(x)[output]| < eps`` over one box.

    Args:
        box: one box (batch of 1).
        output: index of the output compared, usually the predicted class.
        eps: the allowed error, above 0, in units of the output.
        time_limit: seconds for the whole query.
        use_milp: False stops after bounds and search.

    Raises:
        ValueError: ``eps`` not above 0, or an output index the network lacks; see also
            :func:`~quantizable.verify.bounds.difference_bounds`.
    """
    start = time.perf_counter()
    if not eps > 0:
        raise ValueError(f"eps {eps} is not allowed; the error bound must be above 0")
    if not 0 <= output < first.shapes[-1].numel():
        raise ValueError(
            f"output {output} does not exist; the network has outputs 0 to "
            f"{first.shapes[-1].numel() - 1}"
        )
    bounds = difference_bounds(first, second, box)
    low, high = (float(side[0].flatten()[output]) for side in bounds.output)

    def verdict(status: Status, method: str, found: Replay | None = None) -> Verdict:
        return Verdict(status, method, low, high, time.perf_counter() - start, found)

    open_sides = [sign for sign, bound in ((1.0, high), (-1.0, -low)) if bound >= eps]
    if not open_sides:
        return verdict("proved", "bounds")
    method = "search"
    for sign in open_sides:
        weights = torch.zeros(first.shapes[-1].numel(), dtype=torch.float64)
        weights[output] = sign
        found = search(first, second, box, weights, corners(first, second, box, weights), eps)
        if found.value >= eps:
            return verdict("refuted", "search", found)
    if not use_milp:
        return verdict("unknown", method)
    for sign in open_sides:
        weights = torch.zeros(first.shapes[-1].numel(), dtype=torch.float64)
        weights[output] = sign
        exact: set[Neuron] = set()
        influence = {
            (which, index): a
            for which, (graph, own) in enumerate(((first, bounds.first), (second, bounds.second)))
            for index, a in influences(graph, own, weights).items()
        }
        while True:
            left = time_limit - (time.perf_counter() - start)
            method = f"milp+{len(exact)}" if exact else "milp"
            if left <= 0:
                return verdict("unknown", method)
            program = PairProgram(first, second, box, bounds, exact, weights)
            answer, x = program.reach(eps, left)
            if answer == "infeasible":
                break
            if x is None:
                return verdict("unknown", method)
            found = search(first, second, box, weights, program.input_of(x), eps, steps=200)
            if found.value >= eps:
                return verdict("refuted", method, found)
            if answer == "time limit":
                return verdict("unknown", method)
            worst = program.cheating(x, influence, max(8, len(exact)))
            if not worst:
                return verdict("unknown", method)
            exact |= worst
    return verdict("proved", method)


def corners(first: Graph, second: Graph, box: Box, weights: Tensor) -> Tensor:
    """Inputs worth trying first: the center, and where the symbolic bound has its maximum."""
    rows = torch.nonzero(weights)[:, 0].tolist()
    size, value = len(weights), len(first.nodes)
    forms = [Reach(graph, box, "symbolic").form(value) for graph in (first, second)]
    points = [box.center]
    for row in rows:
        up, down = (row, row + size) if weights[row] > 0 else (row + size, row)
        form = forms[1].rows(slice(up, up + 1)) + forms[0].rows(slice(down, down + 1))
        points.append(form.maximizer(box)[:, 0])
    return torch.cat(points)
