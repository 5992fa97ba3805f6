"""A verdict must not depend on units: raw features of any size, hidden values of 1e9.

HiGHS decides with absolute tolerances: it drops entries up to 1e-9 and then calls a program infeasible that
the networks satisfy. So the same network is asked the same question in other units.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.verify import Box, bisect, chain, decide, difference_bounds
from quantizable.verify.stages import Activation, Linear, Scale

program = pytest.importorskip("quantizable.verify.program", reason="the verify extra is not installed")
milp = pytest.importorskip("quantizable.verify.milp", reason="the verify extra is not installed")

FEATURES = 6
UNITS = [10.0**k for k in (-12, -10, -9, -6, -3, 0, 3, 6, 9, 10, 12)]


def raw_pair(seed, inputs=1.0, hidden=1.0, offset=0.0):
    """Raw features, their norm, three linear layers; in float and with 4-bit activations, rounded weights.

    Args:
        inputs: size of the features; hidden: size of the hidden values; offset: mean of the features, in
            units of their size.

    Returns:
        Both networks and a box around one input.
    """
    draw = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    std = (randn(FEATURES).abs() + 0.5) * inputs
    mean = (randn(FEATURES) + offset) * inputs
    norm = Scale(1 / std, -mean / std)
    first, second = [norm], [norm]
    sizes = [(FEATURES, 6), (6, 5), (5, 2)]
    for i, (fan_in, fan_out) in enumerate(sizes):
        weight, bias = randn(fan_out, fan_in) / fan_in**0.5, randn(fan_out) / 4
        coarse = (weight * 4).round() / 4
        grow = (hidden if i == 0 else 1.0) / (hidden if i == 2 else 1.0)
        unit = 1.0 if i == 2 else hidden
        first += [Linear(weight * grow, bias * unit), Activation(low=0.0)]
        second += [
            Linear(coarse * grow, bias * unit),
            Activation(step=hidden / 4, low=0.0, high=hidden * 15 / 4),
        ]
    center = mean + std * randn(FEATURES)
    box = Box.around(center[None], 0.2 * inputs)
    return chain(first[:-1], [FEATURES]), chain(second[:-1], [FEATURES]), box


def attained(first, second, box):
    """The largest difference of output 0 among many inputs of the box."""
    draw = torch.Generator().manual_seed(1)
    share = torch.rand(20000, FEATURES, generator=draw, dtype=torch.float64)
    share[::2] = share[::2].round()
    x = box.low + (box.high - box.low) * share
    return float((second(x) - first(x))[:, 0].max())


def answer(first, second, box, target):
    bounds = difference_bounds(first, second, box)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return milp.PairProgram(first, second, box, bounds, set(), weights).reach(target, 20)[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("inputs", UNITS)
def test_no_false_proof_at_any_size_of_the_inputs(inputs, seed):
    pair = raw_pair(seed, inputs)
    assert answer(*pair, attained(*pair)) == "feasible"


@pytest.mark.parametrize("hidden", [1e-9, 1e6, 1e9])
def test_no_false_proof_at_any_size_of_the_hidden_values(hidden):
    pair = raw_pair(2, hidden=hidden)
    assert answer(*pair, attained(*pair)) == "feasible"


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
def test_no_false_proof_far_from_zero(offset):
    """A time stamp: large numbers that change little."""
    pair = raw_pair(3, offset=offset)
    assert answer(*pair, attained(*pair)) == "feasible"


@pytest.mark.parametrize(("inputs", "hidden"), [(1e-12, 1.0), (1.0, 1.0), (1e10, 1.0), (1e12, 1e9)])
def test_what_holds_is_still_proved(inputs, hidden):
    first, second, box = raw_pair(0, inputs, hidden)
    bounds = difference_bounds(first, second, box)
    high = float(bounds.output.high[0, 0])
    assert answer(first, second, box, high + 1e-3) == "infeasible"


def test_the_verdict_is_the_same_in_other_units():
    eps = 1.02 * max(attained(*raw_pair(0)), 0.05)
    found = {inputs: decide(*raw_pair(0, inputs), 0, eps, 10).status for inputs in (1.0, 2.0**-40, 2.0**40)}
    assert len(set(found.values())) == 1


@given(st.integers(0, 10**6), st.integers(-200, 200), st.integers(-14, 0))
@settings(max_examples=25, deadline=None)
def test_a_scaled_row_holds_wherever_the_row_did(seed, exponent, smallest):
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(4, 9, generator=draw, dtype=torch.float64)
    matrix = matrix * 10.0 ** torch.randint(smallest, 1, matrix.shape, generator=draw) * 2.0**exponent
    reach = torch.ones(9, dtype=torch.float64)
    reach[-1] = 1000.0
    x = (2 * torch.rand(9, generator=draw, dtype=torch.float64) - 1) * reach
    low = matrix @ x  # holds with nothing to spare
    rows, bound = program.scaled(matrix, low, reach)
    assert (rows @ x >= bound).all()
    kept = rows[rows != 0].abs()
    assert kept.min() >= program.SMALLEST_ENTRY
    assert (rows.abs() * reach).max() <= 2
    # and it says little more: what is left out is negligible
    assert ((rows @ x - bound) <= 1e-6).all()


def overflowing(scale):
    """The same two large layers twice: their outputs overflow, so no bound says anything."""
    weight = torch.full((2, 2), 1e300, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    stages = [Linear(weight, zero), Activation(low=0.0), Linear(weight * scale, zero)]
    return chain(stages, [2])


def test_bounds_that_overflow_prove_nothing():
    first, second = overflowing(1.0), overflowing(-1.0)
    box = Box(torch.full((1, 2), -1.0), torch.ones(1, 2))
    assert decide(first, second, box, 0, 1.0, 5).status != "proved"
    assert bisect(first, second, box, 0, 1.0, 1).status != "proved"
