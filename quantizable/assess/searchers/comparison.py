"""Searchers side by side: the same seeds, budget and constraint for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantizable.assess.agreement import Interval, share
from quantizable.assess.callables import Pair, probabilities
from quantizable.assess.images import Images
from quantizable.assess.relations import relations_for
from quantizable.assess.searchers.constraint import Constraint
from quantizable.assess.searchers.diffchaser import FITNESS, DiffChaser
from quantizable.assess.searchers.diva import Diva
from quantizable.assess.searchers.diverget import DiverGet
from quantizable.assess.searchers.fitness import Coverage, Surprise
from quantizable.assess.searchers.gradient import Gradient
from quantizable.assess.searchers.hunt import Found, Searcher, search_inputs
from quantizable.assess.searchers.random_noise import RandomNoise, RandomRelations


def pixel_searchers() -> list[Searcher]:
    """Those that move pixels."""
    return [RandomNoise(), *(DiffChaser(fitness) for fitness in FITNESS), Diva(), Gradient()]


def relation_searchers(
    channels: int, coverage: Coverage | None = None, decibel: float = 20.0
) -> list[Searcher]:
    """Those that set metamorphic relations, for inputs of so many channels.

    Args:
        coverage: also DiverGet's two searches for it, with their published populations; see
            :func:`coverage_of`.
        decibel: the limit that they will run under, below which a setting of DiverGet's is invalid.
    """
    relations = relations_for(channels)
    searchers: list[Searcher] = [RandomRelations(relations)]
    searchers += [DiverGet(relations, kind, decibel=decibel) for kind in ("pso", "genetic", "cma")]
    if coverage is not None:
        searchers += [
            DiverGet(relations, kind, coverage, population=10, decibel=decibel) for kind in ("pso", "genetic")
        ]
    return searchers


def coverage_of(pair: Pair, known: Images) -> Coverage:
    """Surprise coverage of a pair's quantized model, against images like those that it was trained on.

    Raises:
        ValueError: see :class:`Surprise`.
    """
    return Coverage(Surprise(probabilities({"quantized": pair.quantized}, known.pixels)["quantized"]))


@dataclass(frozen=True)
class Row:
    """One searcher on one pair under one constraint.

    Attributes:
        success: share of seeds from which an input was found.
        queries: median to the first success, over the seeds with one.
        seeds: how many.
        complete: False if the search was interrupted.
    """

    pair: str
    searcher: str
    constraint: str
    budget: int
    seeds: int
    success: Interval
    queries: float | None
    complete: bool


def agreeing(pair: Pair, images: Images, count: int | None = None) -> Images:
    """The first ``count`` images on which the pair agrees, from which a search can start.

    Raises:
        ValueError: there are none.
    """
    rows = probabilities({"a": pair.reference, "b": pair.quantized}, images.pixels)
    same = (rows["a"].argmax(1) == rows["b"].argmax(1)).nonzero().flatten()
    if len(same) == 0:
        raise ValueError(f"{pair.name} agrees on no image; there is nothing to search from")
    return images.subset(same[:count])


def compare_searchers(
    pair: Pair,
    seeds: Images,
    searchers: Sequence[Searcher],
    constraint: Constraint,
    budget: int,
    seed: int = 0,
    tell: Callable[[str], Any] = lambda text: None,
) -> Iterator[tuple[Row, Found]]:
    """Run the searchers one after the other and give each result as it comes: an interruption between two
    searchers loses none. After Ctrl-C in a search its row, marked as incomplete, is the last.

    Args:
        seeds: see :func:`agreeing`.
        budget: queries per seed, at least 1.
        tell: called with one line per finished searcher.

    Raises:
        ValueError: no seeds, or a budget below 1.
    """
    for searcher in searchers:
        found = search_inputs(searcher, pair, seeds.pixels, seeds.labels, constraint, budget, seed)
        row = summarise(pair, found, constraint, budget)
        yield row, found
        tell(f"{pair.name}, {searcher.name}: {100 * row.success[0]:.1f} % of {len(seeds)} seeds")
        if not found.complete:
            return


def summarise(pair: Pair, found: Found, constraint: Constraint, budget: int) -> Row:
    """The row of a table."""
    queries = found.queries[found.success].double()
    median = float(queries.quantile(torch.tensor(0.5, dtype=torch.double))) if len(queries) else None
    rate = share(found.success)
    return Row(
        pair.name, found.searcher, str(constraint), budget, len(found.success), rate, median, found.complete
    )
