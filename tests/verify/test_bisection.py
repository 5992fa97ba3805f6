"""Bisection of wide boxes with few inputs, against a dense grid."""

import pytest
import torch

from quantizable.verify import Box, difference_bounds
from quantizable.verify.bisection import bisect
from tests.verify.conftest import random_pair


@pytest.fixture
def wide():
    """Two inputs over their whole range: one bound over everything says little."""
    first, second = random_pair(5, sizes=(2, 8, 8, 2), bits=6)
    return first, second, Box(torch.zeros(1, 2), torch.full((1, 2), 255.0))


def grid_truth(first, second):
    axis = torch.linspace(0, 255, 301, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    return (second(x) - first(x))[:, 0]


def test_proves_what_the_bounds_leave_open(wide):
    first, second, box = wide
    truth = grid_truth(first, second)
    whole = difference_bounds(first, second, box).output.magnitude[0, 0].item()
    eps = (float(truth.abs().max()) + whole) / 2
    assert whole >= eps
    verdict = bisect(first, second, box, 0, eps)
    assert verdict.status == "proved"
    assert -eps < verdict.low <= truth.min() <= truth.max() <= verdict.high < eps


def test_refutes_with_a_replayed_input(wide):
    first, second, box = wide
    eps = 0.8 * float(grid_truth(first, second).abs().max())
    verdict = bisect(first, second, box, 0, eps)
    assert verdict.status == "refuted"
    x = verdict.counterexample.x[None]
    assert box.contains(x).all()
    assert (second(x) - first(x))[0, 0].abs() >= eps


def test_many_inputs_are_refused():
    first, second = random_pair(0, sizes=(20, 4, 2))
    with pytest.raises(ValueError, match="at most 16 real inputs, not 20"):
        bisect(first, second, Box(torch.zeros(1, 20), torch.ones(1, 20)), 0, 1.0)
