"""Costs against sums done by hand."""

import pytest
from torch import nn

import quantizable
from quantizable.measure.cost import layer_costs, mode_costs


def test_costs_are_those_of_the_sum_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 4 * 4, 10),
    )  # fmt: skip
    network = quantizable.quantize(model, [2, 32])
    costs = {(c.mode, c.layer): c for c in layer_costs(network, (3, 6, 6))}
    stem, depthwise = costs["2", "0"], costs["2", "3"]
    assert (stem.weight_bits, stem.input_bits) == (8, 8)  # first and last layer
    assert stem.macs == 8 * 6 * 6 * 3 * 9
    assert stem.bops == 64 * stem.macs
    assert (depthwise.parameters, depthwise.macs) == (72 + 8, 8 * 4 * 4 * 9)
    assert depthwise.bops == 4 * depthwise.macs
    assert depthwise.weight_bytes == 72 * 2 // 8 + 4 * (8 + 8)  # bias and scales
    assert depthwise.activation_bytes == 8 * 6 * 6 * 2 // 8 + 8 * 4 * 4 * 4
    full = costs["32", "3"]
    assert (full.bops, full.weight_bytes) == (1024 * full.macs, 4 * 80)
    low, high = mode_costs(network, list(costs.values()))
    assert low.macs == high.macs == sum(c.macs for c in costs.values() if c.mode == "2")
    assert low.other_bytes == 4 * 16
    assert high.parameters == sum(p.numel() for p in model.parameters())
    assert low.peak_activation_bytes == max(c.activation_bytes for c in costs.values() if c.mode == "2")


def test_the_network_stays_in_its_mode() -> None:
    network = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), [2, 4])
    network.set_bits(2)
    layer_costs(network, (3, 6, 6))
    assert network.bits == 2
    assert network.training


def test_a_mode_that_is_not_there_is_refused() -> None:
    network = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), [2, 4])
    with pytest.raises(ValueError, match="no mode 8"):
        layer_costs(network, (3, 6, 6), [8])
