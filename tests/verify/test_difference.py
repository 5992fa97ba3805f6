"""The clamp rule against the published case table, and both against sampled points."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.verify.difference import clamp_difference
from quantizable.verify.interval import Interval
from quantizable.verify.stages import Activation

T = 3.75
numbers = st.floats(-6, 6, allow_nan=False).map(lambda x: round(x, 3))


def published_table(l, u, lq, uq, dl, du, t):  # noqa: E741
    """QEBVerif's rules for ``clamp(y_q, 0, t) - relu(y)``, transcribed literally."""

    def clamp(x, low=0.0, high=t):
        return min(max(x, low), high)

    inside = lq >= 0 and uq <= t
    dead_or_saturated = uq <= 0 or lq >= t
    crosses_0 = lq < 0 < uq <= t
    crosses_t = 0 <= lq < t < uq
    if u <= 0:
        low, high = clamp(lq), clamp(uq)
    elif l >= 0:
        if inside:
            low, high = dl, du
        elif dead_or_saturated:
            low, high = clamp(lq) - u, clamp(uq) - l
        elif crosses_0:
            low, high = max(dl, -u), max(du, -l)
        elif crosses_t:
            low, high = min(dl, t - u), min(du, t - l)
        else:
            low, high = max(min(dl, t - u), -u), max(min(du, t - l), -l)
    elif inside:
        low, high = min(lq, dl), min(uq, du)
    elif dead_or_saturated:
        low, high = clamp(lq) - u, clamp(uq)
    elif crosses_0:
        low = 0.0 if dl >= 0 else max(dl, -u)
        high = 0.0 if du <= 0 else min(du, uq)
    elif crosses_t:
        low, high = min(dl, lq, t - u), min(du, t)
    else:
        low, high = min(t - u, 0.0, max(dl, -u)), clamp(du)
    return max(low, clamp(lq) - max(u, 0.0)), min(high, clamp(uq) - max(l, 0.0))


def as_interval(low, high):
    return Interval(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))


@st.composite
def states(draw):
    """Bounds of y, y_q and y_q - y that hold for at least one pair of values."""
    y, yq = draw(numbers), draw(numbers)
    grow = st.floats(0, 4).map(lambda x: round(x, 3))
    l, u, lq, uq = y - draw(grow), y + draw(grow), yq - draw(grow), yq + draw(grow)  # noqa: E741
    return l, u, lq, uq, yq - y - draw(grow), yq - y + draw(grow)


@given(states())
@settings(max_examples=1500, deadline=None)
def test_never_looser_than_the_published_table(state):
    l, u, lq, uq, dl, du = state  # noqa: E741
    low, high = published_table(*state, T)
    ours = clamp_difference(
        Activation(low=0.0), Activation(low=0.0, high=T),
        as_interval(l, u), as_interval(lq, uq), as_interval(dl, du),
    )  # fmt: skip
    assert ours.low.item() >= low - 1e-12
    assert ours.high.item() <= high + 1e-12


@given(states(), st.floats(-2, 1), st.floats(0.5, 5), st.integers(0, 2**31))
@settings(max_examples=800, deadline=None)
def test_every_pair_of_values_is_inside_and_the_bound_is_reached(state, bottom, top, seed):
    l, u, lq, uq, dl, du = state  # noqa: E741
    first, second = Activation(low=bottom), Activation(low=0.0, high=top)
    ours = clamp_difference(first, second, as_interval(l, u), as_interval(lq, uq), as_interval(dl, du))
    # All y on a fine grid with, for each, the smallest and the largest possible y_q.
    y = torch.linspace(max(l, lq - du), min(u, uq - dl), 4001, dtype=torch.float64)
    largest = second.clamp((y + du).clamp(max=uq)) - first.clamp(y)
    smallest = second.clamp((y + dl).clamp(min=lq)) - first.clamp(y)
    assert (largest <= ours.high + 1e-12).all()
    assert (smallest >= ours.low - 1e-12).all()
    # Exact: the grid's step bounds how much it can miss.
    step = 2 * (y[1] - y[0]).abs().item() + 1e-9
    assert largest.max().item() >= ours.high.item() - step
    assert smallest.min().item() <= ours.low.item() + step
