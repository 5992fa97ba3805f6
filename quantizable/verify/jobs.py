"""Many boxes with one question: in parallel processes, within a total time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace

import torch

from quantizable.verify.asked import Answers, Asked
from quantizable.verify.box import Box
from quantizable.verify.decide import Verdict
from quantizable.verify.graph import Graph

LEAST = 0.01  # seconds; with less left nothing is asked


@dataclass(frozen=True)
class Job:
    """One box (batch of 1), its place among the inputs, and the class or output it is about."""

    index: int
    box: Box
    output: int


def run_jobs(
    asked: Asked,
    graphs: Sequence[Graph],
    jobs: Sequence[Job],
    processes: int = 1,
    total: float = float("inf"),
) -> Iterator[tuple[Job, Asked, Answers]]:
    """Answer a question for every box, in order of completion.

    Args:
        asked: the question; its time limit is for each box (and mode).
        graphs: the networks it is about.
        jobs: the boxes.
        processes: of one thread each; 1 stays in this one.
        total: seconds for all of them. What is left shortens the time limit of a box, which the question that
            comes back with its answers tells.

    Yields:
        Each job. Where no time was left there are no answers.
    """
    if processes < 1:
        raise ValueError(f"processes {processes} is not allowed; it must be 1 or more")
    end = time.time() + total
    if processes == 1:
        for job in jobs:
            yield job, *_answer(asked, graphs, job, end)
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    context = multiprocessing.get_context("spawn")
    common = (asked, tuple(graphs), end)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=common) as pool:
        waiting = {pool.submit(_work, job): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], *future.result()


def not_asked() -> Verdict:
    """The verdict of a box for which no time was left."""
    return Verdict("unknown", "not asked", -float("inf"), float("inf"), 0.0)


def _answer(asked: Asked, graphs: Sequence[Graph], job: Job, end: float) -> tuple[Asked, Answers]:
    left = min(asked.time_limit, end - time.time())
    if left < LEAST:
        return asked, []
    within = replace(asked, time_limit=left)
    return within, within.answers(graphs, job.box, job.output)


_common: list[tuple[Asked, tuple[Graph, ...], float]] = []  # of a worker: what all its jobs share


def _start(*common: object) -> None:
    torch.set_num_threads(1)
    _common[:] = [common]  # type: ignore[list-item]


def _work(job: Job) -> tuple[Asked, Answers]:
    asked, graphs, end = _common[0]
    return _answer(asked, graphs, job, end)
