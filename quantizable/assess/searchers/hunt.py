"""The ledger of a search: it alone asks the pair, counts queries, and decides what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from quantizable.assess.callables import Pair, probabilities
from quantizable.assess.searchers.constraint import Constraint

BACKWARD = 2  # queries of a gradient beside the forward pass: a backward pass is about two forward passes

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits of both models ``[M, K]`` and a class for each row ``[M]`` to what is to grow ``[M]``."""


def advantage(reference: Tensor, quantized: Tensor, label: Tensor) -> Tensor:
    """``p_ref[y] - p_quant[y]``: the objective of DIVA (Hao et al., MLSys 2022, sec. 3)."""
    p, q = (rows.softmax(1).gather(1, label[:, None])[:, 0] for rows in (reference, quantized))
    return p - q


class Hunt:
    """Seeds, a pair, a budget of queries per seed and a constraint.

    A query is one input shown to both models. Searchers cannot cheat: an input is recorded only here, and
    only if the constraint allows it and the two predictions differ (NaN predicts nothing); a seed that is
    found, or out of budget, is not served.

    Args:
        pair: the two models.
        seeds: pixels ``[N, C, H, W]`` in [0, 1] on which the pair agrees.
        labels: ``[N]``, for searchers that aim at or away from the right answer.
        constraint: what an input may be.
        budget: queries per seed, at least 1.

    Raises:
        ValueError: no seeds, NaN in them, or a budget below 1.
    """

    def __init__(
        self, pair: Pair, seeds: Tensor, labels: Tensor, constraint: Constraint, budget: int
    ) -> None:
        if budget < 1:
            raise ValueError(f"a budget of {budget} queries finds nothing; give at least 1")
        if len(seeds) == 0:
            raise ValueError("there are no seeds to search from")
        if not torch.isfinite(seeds).all():
            raise ValueError("seeds hold NaN or infinite values")
        self.pair, self.seeds, self.labels = pair, seeds, labels
        self.constraint, self.budget = constraint, budget
        self.queries = torch.zeros(len(seeds), dtype=torch.long)
        self.first = torch.zeros(len(seeds), dtype=torch.long)  # queries to the first success; 0: none so far
        self.inputs = seeds.clone()
        self.answers = torch.full((len(seeds), 2), -1)

    def active(self, cost: int = 1) -> Tensor:
        """Indices of the seeds that are neither found nor short of ``cost`` queries."""
        return ((self.first == 0) & (self.queries + cost <= self.budget)).nonzero().flatten()

    def ask(self, inputs: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Both models' probabilities ``[M, K]`` for inputs ``[M, C, H, W]`` of the seeds ``owner`` ``[M]``.

        A seed's inputs beyond its budget are answered, but neither recorded nor worth anything to the
        searcher (their probabilities are NaN); so a search written for whole populations needs no care at the
        end.
        """
        with torch.no_grad():
            p, q = self.pair.probabilities(inputs)
        beyond = self._charge(owner, 1)
        self._record(inputs, owner, p, q, beyond)
        nan = torch.full_like(p, float("nan"))
        return torch.where(beyond[:, None], nan, p), torch.where(beyond[:, None], nan, q)

    def gradient(
        self, inputs: Tensor, owner: Tensor, objective: Objective | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gradient ``[M, C, H, W]`` of an objective at inputs of the seeds ``owner`` ``[M]``, and the
        reference's answers ``[M]`` to them, which are asked for and recorded; costs 3 queries.

        Args:
            objective: by default :func:`advantage`.

        Raises:
            ValueError: too few models of the pair, or its surrogate, have a gradient: none, or of
                :func:`advantage`, which compares two, one.
        """
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            both = self.pair.logits(inputs)
            slopes = self.pair.differentiable(inputs, both)
            if not slopes:
                raise ValueError("this pair has no gradient (an engine's models); give it a surrogate")
            if len(slopes) < 2 and objective in (None, advantage):
                raise ValueError("only one model of this pair has a gradient; give it a surrogate")
            found = (objective or advantage)(slopes[0], slopes[-1], self.target[owner])
            (slope,) = torch.autograd.grad(found.sum(), inputs)
        beyond = self._charge(owner, 1 + BACKWARD)
        p, q = (rows.detach().softmax(1) for rows in both)
        self._record(inputs.detach(), owner, p, q, beyond)
        return slope, p.argmax(1)

    @cached_property
    def has_gradient(self) -> bool:
        """Whether :meth:`gradient` works for the pair, or one of its models; asking is free."""
        inputs = self.seeds[:1].detach().requires_grad_()
        with torch.enable_grad():
            return bool(self.pair.differentiable(inputs, self.pair.logits(inputs)))

    @cached_property
    def target(self) -> Tensor:
        """The reference's answers on the seeds ``[N]``; asking for them is free, as they are known
        beforehand."""
        return probabilities({"reference": self.pair.reference}, self.seeds)["reference"].argmax(1)

    def _charge(self, owner: Tensor, cost: int) -> Tensor:
        """Count the queries; mask of the inputs that came after their seed's budget was spent."""
        order = torch.argsort(owner, stable=True)
        counts = torch.bincount(owner, minlength=len(self.seeds))
        start = (counts.cumsum(0) - counts)[owner[order]]
        self.number = torch.empty_like(
            owner
        )  # of each input, the queries its seed has spent when it is answered
        self.number[order] = self.queries[owner[order]] + cost * (torch.arange(len(owner)) - start + 1)
        self.queries = (self.queries + cost * counts).clamp(max=self.budget)
        return self.number > self.budget

    def _record(self, inputs: Tensor, owner: Tensor, p: Tensor, q: Tensor, beyond: Tensor) -> None:
        a, b = p.argmax(1), q.argmax(1)
        answered = torch.isfinite(p + q).all(1)  # the argmax of NaN is no prediction
        hits = (a != b) & answered & ~beyond & self.constraint.allows(inputs, self.seeds[owner])
        for i in hits.nonzero().flatten().tolist():
            seed = int(owner[i])
            if self.first[seed] == 0 or self.number[i] < self.first[seed]:
                self.inputs[seed] = inputs[i]
                self.answers[seed] = torch.stack((a[i], b[i]))
                self.first[seed] = self.number[i]  # last: what an interruption leaves is whole


def random_start(hunt: Hunt, generator: torch.Generator) -> Tensor:
    """Allowed inputs ``[N, C, H, W]``, drawn at random around the seeds."""
    noise = 2 * torch.rand(hunt.seeds.shape, generator=generator) - 1
    return hunt.constraint.project(hunt.seeds + hunt.constraint.radius * noise, hunt.seeds)


class Searcher(Protocol):
    """A way to search: it asks the hunt until no seed is active."""

    name: str

    def run(self, hunt: Hunt, generator: torch.Generator) -> None:
        """Search from all seeds at once."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        searcher: its name.
        success: mask ``[N]`` of the seeds from which an input was found.
        queries: ``[N]`` to the first success; 0 where there is none.
        spent: ``[N]`` queries in all.
        inputs: ``[N, C, H, W]``: what was found, the seed where nothing was.
        answers: ``[N, 2]``: predictions of reference and quantized model, -1 where nothing was found.
        complete: False if the search was interrupted.
    """

    searcher: str
    success: Tensor
    queries: Tensor
    spent: Tensor
    inputs: Tensor
    answers: Tensor
    complete: bool = True


def search_inputs(
    searcher: Searcher,
    pair: Pair,
    seeds: Tensor,
    labels: Tensor,
    constraint: Constraint,
    budget: int,
    seed: int = 0,
) -> Found:
    """Search with a searcher; the same result for the same seed. Ctrl-C ends it and keeps what was found.

    Args: see :class:`Hunt`; every seed should be one on which the pair agrees.
    """
    hunt = Hunt(pair, seeds, labels, constraint, budget)
    complete = True
    try:
        searcher.run(hunt, torch.Generator().manual_seed(seed))
    except KeyboardInterrupt:
        complete = False
    return Found(searcher.name, hunt.first > 0, hunt.first, hunt.queries, hunt.inputs, hunt.answers, complete)
