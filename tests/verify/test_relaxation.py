"""Linear bounds of activations enclose the function, on a grid of every kind of interval."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.verify.interval import Interval, activation_interval
from quantizable.verify.relaxation import Line, Relaxation, relax
from quantizable.verify.stages import INFINITY, Activation

ACTIVATIONS = [
    Activation(low=0.0),
    Activation(low=0.0, high=6.0),
    Activation(low=-1.0, high=1.0),
    Activation(step=0.25, low=0.0, high=3.75, half_even=False),
    Activation(step=0.25, low=0.0, high=3.75, snap=False),
    Activation(step=0.5, low=-4.0, high=3.5),
    Activation(step=0.3, low=-0.3 * 2.4, high=0.3 * 4.6, zero_point=2.4),
    Activation(step=0.125, low=-INFINITY, high=INFINITY),
    Activation(),
]
kinds = st.sampled_from(ACTIVATIONS)
ends = st.tuples(st.floats(-8, 8), st.floats(0, 8))


def points(low, width):
    return torch.linspace(low, low + width, 513, dtype=torch.float64)


def encloses(relaxation: Relaxation, stage: Activation, x: torch.Tensor) -> bool:
    y = stage(x)
    lower, upper = (line.slope * x + line.offset for line in relaxation)
    return bool((lower <= y + 1e-12).all() and (y <= upper + 1e-12).all())


@given(kinds, ends, st.booleans())
@settings(max_examples=700, deadline=None)
def test_lines_enclose_the_activation(stage, end, tight):
    x = points(*end)
    interval = Interval(x[:1], x[-1:])
    assert encloses(relax(stage, interval, tight), stage, x)


@given(kinds, ends)
@settings(max_examples=800, deadline=None)
def test_interval_is_the_range(stage, end):
    x = points(*end)
    found = activation_interval(stage, Interval(x[:1], x[-1:]))
    y = stage(x)
    assert found.contains(y, 1e-12).all()
    # Monotone, so the ends are reached, up to the direction of a tie.
    assert found.low.item() >= y.min().item() - stage.step - 1e-12
    assert found.high.item() <= y.max().item() + stage.step + 1e-12


def test_a_wrong_line_is_noticed():
    stage, x = Activation(low=0.0), points(-1.0, 3.0)
    good = relax(stage, Interval(x[:1], x[-1:]))
    assert encloses(good, stage, x)
    low_chord = Relaxation(good.lower, Line(good.upper.slope, good.upper.offset - 0.05))
    assert not encloses(low_chord, stage, x)
