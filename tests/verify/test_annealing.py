"""Annealing: what it finds against an enumeration of all inputs."""

import itertools
import time

import pytest
import torch

from quantizable.verify import Box
from quantizable.verify.annealing import anneal


def rugged(x: torch.Tensor) -> torch.Tensor:
    """Many local maxima: a step function of each of two sums, as a quantized network has."""
    weights = torch.tensor([[3.0, -2.0], [1.5, 2.5], [-4.0, 1.0], [2.0, 3.5]], dtype=torch.float64)
    a, b = (x @ weights).unbind(1)
    return (a / 5).round() * 2 - (b / 3).round().abs() + ((a + 2 * b) / 7).sin()


def box(integer: bool) -> Box:
    return Box(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 6.0), integer)


def score(x: torch.Tensor) -> torch.Tensor:
    return rugged(x.flatten(1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_the_best_of_all_inputs(seed: int) -> None:
    every = torch.tensor([*itertools.product(range(7), repeat=4)], dtype=torch.float64)
    best = float(rugged(every).max())
    found, value = anneal(score, box(True), torch.zeros(1, 2, 2).double(), best, seconds=20, seed=seed)
    assert value == best == float(score(found)[0])
    assert box(True).contains(found)


def test_it_ends_in_time_with_the_best_so_far() -> None:
    start = torch.full((1, 2, 2), 3.0, dtype=torch.float64)
    seen: list[float] = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        values = score(x)
        seen.append(float(values.max()))
        return values

    begun = time.perf_counter()
    found, value = anneal(noted, box(False), start, float("inf"), seconds=0.3)
    assert time.perf_counter() - begun < 20
    assert len(seen) > 8  # it did not give up
    assert value == float(score(found)[0]) >= max(float(score(start)[0]), max(seen[9:], default=-torch.inf))
    assert box(False).contains(found)


def test_nothing_is_tried_where_there_is_no_time_or_no_need() -> None:
    start = torch.zeros(1, 2, 2, dtype=torch.float64)
    for target, seconds in ((float("inf"), -1.0), (float(score(start)[0]), 9.0)):
        found, value = anneal(score, box(True), start, target, seconds=seconds)
        assert torch.equal(found, start)
        assert value == float(score(start)[0])


def test_it_stays_in_the_box_to_the_last_bit() -> None:
    ends = torch.rand(2, 1, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = Box(-ends[0], 3 * ends[1])
    seen: list[torch.Tensor] = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.sum(1)

    anneal(noted, wide, wide.center, float("inf"), seconds=0.3)
    assert wide.contains(torch.cat(seen)).all()
