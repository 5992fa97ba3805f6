"""Rounding neurons as staircases, against the rounding and the hull of its graph, by scipy's solvers."""

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from quantizable.verify.interval import Interval, rounded
from quantizable.verify.program import Program
from quantizable.verify.stages import Activation
from quantizable.verify.staircase import MOST_STEPS, add_staircase, has_few_steps

pytest.importorskip("highspy", reason="the verify extra is not installed")

STAGES = [
    Activation(step=0.25, low=0.0, high=3.75, half_even=False),
    Activation(step=0.25, low=0.0, high=3.75),
    Activation(step=0.3, low=-0.6, high=0.3, zero_point=2.0),
    Activation(step=0.5),
]
RANGES = [(-0.9, 1.3), (0.2, 0.7), (0.1, 0.2), (-2.0, 0.2), (-1.1, -0.3), (3.0, 9.0), (0.12, 0.38)]


def ends(stage, low, high, at, whole):
    """The smallest and the largest code that the program allows for ``x = at``, in its own units."""
    program = Program()
    inner = Interval(*(torch.tensor([v], dtype=torch.float64) for v in (low, high)))
    x = program.add_columns(*inner)
    code = add_staircase(program, stage, x, inner, rounded(stage, inner), whole)
    columns = program.columns
    rows = [LinearConstraint(x.padded(columns)[:, 0].numpy(), *[at - float(x.constant)] * 2)]
    for matrix, limit in program.rows:
        padded = torch.cat([matrix, matrix.new_zeros(columns - len(matrix), matrix.shape[1])])
        rows.append(LinearConstraint(padded.T.numpy(), lb=limit.numpy()))
    bounds = Bounds(torch.cat(program.low).numpy(), torch.cat(program.high).numpy())
    found = []
    for sign in (1, -1):
        cost = sign * code.padded(columns)[:, 0].numpy()
        answer = milp(cost, constraints=rows, bounds=bounds, integrality=torch.cat(program.integer).numpy())
        assert answer.success, answer.message
        found.append(sign * answer.fun + float(code.constant))
    return found


def graph(stage, low, high):
    """Points ``(x, code)`` of the staircase, with both codes at each edge."""
    x = np.linspace(low, high, 4001)
    edges = (np.arange(-50, 50) + 0.5 - stage.zero_point) * stage.step
    edges = edges[(edges >= low) & (edges <= high)]
    beside = np.concatenate([x, edges - 1e-9, edges + 1e-9])
    x = np.concatenate([x, edges, edges])
    order = np.argsort(x, kind="stable")
    return x[order], stage(torch.from_numpy(beside)).numpy()[order]


def upper_hull(x, y, at):
    """The concave envelope of points, at a place: the highest chord across it."""
    left, right = x <= at, x >= at
    a, b = np.meshgrid(np.flatnonzero(left), np.flatnonzero(right), indexing="ij")
    width = np.maximum(x[b] - x[a], 1e-12)
    share = np.where(x[b] > x[a], (at - x[a]) / width, 0)
    return float(np.max(y[a] + share * (y[b] - y[a])))


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("stage", STAGES, ids=["half up", "half even", "zero point", "no clamp"])
def test_whole_numbers_are_the_rounding_and_real_ones_its_hull(stage, low, high):
    inner = Interval(*(torch.tensor([v], dtype=torch.float64) for v in (low, high)))
    if not has_few_steps(stage, rounded(stage, inner)):
        pytest.skip("one code, or too many")
    x, codes = graph(stage, low, high)
    few = np.linspace(0, len(x) - 1, 400).astype(int)
    corners = np.flatnonzero(np.diff(codes))
    few = np.unique(np.concatenate([few, corners, corners + 1]))
    for at in np.linspace(low, high, 7):
        nearby = stage(torch.tensor([at - 1e-7, at + 1e-7], dtype=torch.float64))
        smallest, largest = ends(stage, low, high, at, whole=True)
        assert (smallest, largest) == pytest.approx(tuple(nearby.tolist()), abs=1e-6)
        smallest, largest = ends(stage, low, high, at, whole=False)
        assert largest == pytest.approx(upper_hull(x[few], codes[few], at), abs=1e-5)
        assert smallest == pytest.approx(-upper_hull(x[few], -codes[few], at), abs=1e-5)


def test_the_hull_is_never_wider_than_half_a_step_of_error():
    stage = STAGES[0]
    for low, high in ((0.0, 1.9), (0.3, 0.9)):
        for at in np.linspace(low, high, 5):
            smallest, largest = ends(stage, low, high, at, whole=False)
            assert at - stage.step / 2 - 1e-7 <= smallest <= largest <= at + stage.step / 2 + 1e-7


@pytest.mark.parametrize(
    ("stage", "high", "few"),
    [
        (Activation(step=1.0, low=0.0), 0.4, False),  # one code
        (Activation(step=1.0, low=0.0), 0.6, True),
        (Activation(step=1.0, low=0.0), MOST_STEPS + 0.4, True),
        (Activation(step=1.0, low=0.0), MOST_STEPS + 0.6, False),
        (Activation(step=1.0, low=0.0, high=3.0), 1e9, True),
        (Activation(low=0.0), 1.0, False),
        (Activation(step=1.0, low=0.0, snap=False), 1.0, False),
    ],
)
def test_which_neurons_have_few_steps(stage, high, few):
    inner = Interval(*(torch.tensor([v], dtype=torch.float64) for v in (-0.3, high)))
    assert bool(has_few_steps(stage, rounded(stage, inner))) is few
