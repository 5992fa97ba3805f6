"""What a search did not flip goes to the prover: each seed comes out refuted, proved or open."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from quantizable.assess.callables import ModeModel, Pair
from quantizable.assess.searchers.constraint import LInf
from quantizable.assess.searchers.hunt import Found
from quantizable.verify import Box, Execution, Graph, Verdict, decide_agreement, graph_of
from quantizable.verify.replay import Replay
from quantizable.verify.segments import normalization, prefixed


def prove_the_rest(
    found: Found,
    seeds: Tensor,
    constraint: LInf,
    first: Graph,
    second: Graph,
    *,
    mean: Tensor,
    std: Tensor,
    time_limit: float = 60.0,
    use_milp: bool = True,
    execution: Execution = "real",
) -> Iterator[Verdict]:
    """For each seed: does the quantized model give the reference's class for all inputs that are allowed?

    Args:
        found: of a search from these seeds under this constraint. What it flipped is refuted; its input is
            replayed in float64, and asked anew if that does not show it.
        seeds: images in [0, 1], ``[N, C, H, W]``.
        constraint: what the search was allowed.
        first, second: reference and quantized model, see :func:`~quantizable.verify.graph_of`.
        mean, std: their normalization, broadcastable to an image.
        time_limit: seconds for each seed.
        use_milp, execution: see :func:`~quantizable.verify.decide_agreement`.

    Yields:
        A verdict for each seed: ``refuted``, ``proved``, or ``unknown`` where neither of both answers.
    """
    shape = seeds.shape[1:]
    pixels = [prefixed(graph, [normalization(mean, std)], shape) for graph in (first, second)]
    box = Box.around(seeds.double(), constraint.eps, 0.0, 1.0)
    for i in range(len(seeds)):
        shown = _shown(found, i, pixels, box[i : i + 1]) if execution == "real" else None
        if shown is None:
            [verdict] = decide_agreement(
                pixels[0], {"": pixels[1]}, box[i : i + 1], time_limit, use_milp, "joint", execution=execution
            ).values()
        else:
            verdict = shown
        yield verdict


def _shown(found: Found, index: int, graphs: list[Graph], box: Box) -> Verdict | None:
    """The verdict of an input that the search found, if the two networks disagree on it."""
    start = time.perf_counter()
    if not bool(found.success[index]):
        return None
    x = box.nearest(found.inputs[index : index + 1])
    a, b = (graph(x)[0].flatten() for graph in graphs)
    if a.argmax() == b.argmax():
        return None
    value = float(b.max() - b[a.argmax()])
    replayed = Replay(x[0], a, b, value)
    seconds = time.perf_counter() - start
    return Verdict("refuted", found.searcher, -float("inf"), -value, seconds, replayed)


def prove_pair(
    pair: Pair, founds: Sequence[Found], seeds: Tensor, constraint: LInf, time_limit: float
) -> dict[str, int]:
    """How many seeds come out refuted, proved, and open (``unknown``), of two modes of one network.

    Args:
        pair: of :class:`~quantizable.assess.callables.ModeModel`.
        founds: of all searches of this pair from these seeds under this constraint.
        seeds, constraint, time_limit: as for :func:`prove_the_rest`.

    Raises:
        ValueError: the network has layers that cannot be verified.
    """
    graphs, shape = [], seeds.shape[1:]
    for model in (pair.reference, pair.quantized):
        assert isinstance(model, ModeModel)
        with model.network.at_bits(model.mode):
            graphs.append(graph_of(model.network, shape))
        mean, std = (torch.tensor(v or (d,)).view(-1, 1, 1) for v, d in ((model.mean, 0.0), (model.std, 1.0)))
    verdicts = prove_the_rest(
        together(founds), seeds, constraint, *graphs, mean=mean, std=std, time_limit=time_limit
    )
    counts = Counter(verdict.status for verdict in verdicts)
    return {status: counts[status] for status in ("refuted", "proved", "unknown")}  # type: ignore[index]


def together(founds: Sequence[Found]) -> Found:
    """Searches from the same seeds as one: of each seed the input of the first search that found one."""
    first, *others = founds
    for found in others:
        fresh = found.success & ~first.success
        inputs, answers, queries = first.inputs.clone(), first.answers.clone(), first.queries.clone()
        for old, new in ((inputs, found.inputs), (answers, found.answers), (queries, found.queries)):
            old[fresh] = new[fresh]
        first = replace(first, success=first.success | fresh, inputs=inputs, answers=answers, queries=queries)
    return first
