"""Difference bounds: the published example and numbers, soundness, and a planted wrong rule."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.verify import (
    METHODS,
    Box,
    FixedPoint,
    chain,
    difference_bounds,
    fixed_point_network,
    float_network,
    mode_difference_bounds,
    propagation,
)
from quantizable.verify.interval import Interval
from quantizable.verify.stages import INFINITY, Activation, Linear
from tests.verify.conftest import random_pair, sample


@pytest.fixture
def example():
    """The worked example of the QEBVerif paper, whose bounds do not snap to grid points."""
    weights = [
        torch.tensor([[1.2, -0.2], [-0.7, 0.8]], dtype=torch.float64),
        torch.tensor([[0.3, 0.7]], dtype=torch.float64),
    ]
    biases = [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    scheme = FixedPoint(4, weight_fraction=2, input_bits=4, snap=False)
    return (
        float_network(weights, biases, pixel_max=15),
        fixed_point_network(weights, biases, scheme),
        Box(torch.tensor([[6.0, 3.0]]), torch.tensor([[12.0, 9.0]]), integer=True),
    )


def close(interval: Interval, low, high) -> bool:
    expected = torch.tensor([low, high], dtype=torch.float64)
    return torch.allclose(torch.stack([interval.low[0], interval.high[0]]), expected, rtol=0, atol=5e-9)


def test_worked_example_weights(example):
    _, quantized, _ = example
    assert (quantized.nodes[1].stage.weight * 4).tolist() == [[5, -1], [-3, 3]]
    assert (quantized.nodes[3].stage.weight * 4).tolist() == [[1, 3]]


def test_worked_example_interval(example):
    _, _, d, after, output = difference_bounds(*example, "interval").difference
    assert close(d, [-0.194375 + 0.125, -0.204375 + 0.125], [0.133125 - 0.125, 0.123125 - 0.125])
    assert close(after, [-0.194375, -0.2], [0.133125, 0.123125])
    assert close(output, [-0.24459375], [0.117625])


def test_worked_example_symbolic(example):
    _, _, d, _, output = difference_bounds(*example, "symbolic").difference
    # The paper counts the rounding of the next stage, 1/8, into the first layer's difference.
    assert close(d, [-0.168125 + 0.125, -0.185625 + 0.125], [0.106875 - 0.125, 0.104375 - 0.125])
    assert close(output, [-0.19721875], [0.2045])


def test_worked_example_is_tighter_on_the_grid(example):
    network, quantized, box = example
    snapped = chain(
        [
            replace(n.stage, snap=True) if isinstance(n.stage, Activation) else n.stage
            for n in quantized.nodes
        ],
        [2],
    )
    output = difference_bounds(network, snapped, box, "symbolic").output
    assert close(output, [-0.19721875], [0.1966875])


def rounded_output(network, quantized, bits):
    """The published naive widths are of networks whose output is rounded like a hidden layer."""
    grid = replace(FixedPoint(bits).activation, low=-INFINITY, high=INFINITY)
    return network.then(Activation()), quantized.then(grid)


@pytest.mark.parametrize("net", ["p1", "p2"])
@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_published_widths(net, bits, benchmark_pair, published, mnist):
    rows = [
        row
        for row in published("published_output_widths.csv")
        if (row["net"], row["weight_bits"]) == (net, str(bits))
    ]
    assert len(rows) == 10
    network, quantized = benchmark_pair(net, bits)
    images = mnist[[int(row["mnist_test_index"]) for row in rows]]
    box = Box.around(images, 3, 0, 255, integer=True)
    output = network(images).argmax(1, keepdim=True)
    found = difference_bounds(*rounded_output(network, quantized, bits), box, "naive").output
    width = found.width.gather(1, output)[:, 0]
    expected = torch.tensor([float(row["output_width"]) for row in rows], dtype=torch.float64)
    assert ((width - expected).abs() / expected).max().item() < 1e-5


def escapes(first, second, box, method, count=600, seed=0):
    """How many sampled values of any stage lie outside its interval (float64 noise allowed)."""
    known = difference_bounds(first, second, box, method)
    outside = 0
    for x in sample(box, count, seed):
        a, b = first.values(x), second.values(x)
        for i in range(len(a)):
            for interval, value in (
                (known.first[i], a[i]), (known.second[i], b[i]), (known.difference[i], b[i] - a[i]),
            ):  # fmt: skip
                outside += int((~interval.contains(value, 1e-12)).sum())
    return outside


@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 8]), st.integers(0, 60))
@settings(max_examples=12, deadline=None)
def test_sampled_inputs_stay_inside(method, seed, bits, radius):
    first, second = random_pair(seed, bits=bits)
    center = torch.randint(0, 256, (3, 4), generator=torch.Generator().manual_seed(seed)).double()
    box = Box.around(center, radius, 0, 255, integer=True)
    assert escapes(first, second, box, method, count=150, seed=seed) == 0


@pytest.mark.slow
@pytest.mark.parametrize("net", ["p1", "p2"])
@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_sampled_images_stay_inside(net, bits, benchmark_pair, mnist):
    first, second = benchmark_pair(net, bits)
    box = Box.around(mnist[:4], 3, 0, 255, integer=True)
    assert escapes(first, second, box, "combined", count=750) == 0  # 3000 inputs


def test_a_planted_unsound_rule_is_caught(monkeypatch):
    """The soundness test must fail for a rule that forgets the rounding of the activations."""
    first, second = random_pair(3)
    box = Box.around(torch.full((2, 4), 128.0), 20, 0, 255, integer=True)
    assert escapes(first, second, box, "interval") == 0
    monkeypatch.setattr(propagation, "rounding_difference", lambda first, second, d: d)
    assert escapes(first, second, box, "interval") > 0


@given(st.integers(0, 10**6), st.sampled_from([2, 4, 6]), st.integers(0, 40))
@settings(max_examples=25, deadline=None)
def test_combined_is_never_looser(seed, bits, radius):
    first, second = random_pair(seed, bits=bits)
    box = Box.around(torch.full((2, 4), 100.0), radius, 0, 255, integer=True)
    combined = difference_bounds(first, second, box, "combined").output
    for method in ("naive", "interval", "symbolic"):
        other = difference_bounds(first, second, box, method).output
        noise = 0.0 if radius else 1e-12  # of a single input, only the analyses that are exact run
        assert (combined.low >= other.low - noise).all()
        assert (combined.high <= other.high + noise).all()


@pytest.mark.parametrize("method", ["joint", "combined"])
def test_a_single_input_is_bounded_exactly(method):
    first, second = random_pair(5)
    x = torch.tensor([[10.0, 200.0, 30.0, 90.0], [0.0, 255.0, 7.0, 1.0]], dtype=torch.float64)
    found = difference_bounds(first, second, Box(x, x), method)
    for known, values in ((found.first, first.values(x)), (found.second, second.values(x))):
        for interval, value in zip(known, values, strict=True):
            assert interval.contains(value).all()
            assert interval.width.max() < 1e-10
    assert found.output.contains(second(x) - first(x)).all()


def test_batch_and_modes_in_one_call_equal_single_calls():
    (first, four), (_, eight) = random_pair(1, bits=4), random_pair(1, bits=8)
    box = Box.around(torch.rand(5, 4).double() * 255, 9, 0, 255)
    together = mode_difference_bounds(first, {"4": four, "8": eight}, box)
    for name, second in (("4", four), ("8", eight)):
        for i in range(5):
            alone = difference_bounds(first, second, box[i : i + 1]).output
            assert torch.allclose(together[name].output.low[i], alone.low[0], atol=1e-12)
            assert torch.allclose(together[name].output.high[i], alone.high[0], atol=1e-12)


def test_outward_rounding_keeps_a_cancelling_sum_inside():
    """1e16 + 1 - 1e16 is 1 in real arithmetic; float64 says 0 or 2 depending on the order."""
    weight = torch.tensor([[1e16, 1.0, -1e16]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    network = chain([Linear(weight, zero)], [3])
    still = chain([Linear(torch.zeros_like(weight), zero)], [3])
    box = Box(torch.ones(1, 3), torch.ones(1, 3))
    for method in METHODS:
        found = difference_bounds(still, network, box, method).output
        assert found.low.item() <= 1.0 <= found.high.item()


def test_unknown_method_and_wrong_shape():
    first, second = random_pair(0)
    with pytest.raises(ValueError, match="allowed are naive, interval"):
        difference_bounds(first, second, Box.around(torch.zeros(1, 4), 1), "best")
    with pytest.raises(ValueError, match="network takes"):
        difference_bounds(first, second, Box.around(torch.zeros(1, 5), 1))
    other, _ = random_pair(0, sizes=(4, 7, 3))
    with pytest.raises(ValueError, match="differ in structure"):
        difference_bounds(first, other, Box.around(torch.zeros(1, 4), 1))
