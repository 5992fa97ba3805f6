"""The space of assignments and what they cost, by hand."""

import json
from pathlib import Path

import pytest
import torch
from timm import create_model
from torch import nn

import quantizable
from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.search.costs import bops_cost, bytes_cost, latency_cost, macs
from quantizable.search.space import Space, parse_budget

IMAGE = torch.zeros(1, 3, 8, 8)
# multiply-accumulates by hand: outputs * inputs per output
MACS = {"0": 4 * 64 * 27, "3": 6 * 16 * 36, "6": 8 * 16 * 54, "9": 8 * 16 * 8, "14": 5 * 8}


def test_macs_by_hand(network: QuantizableNetwork) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert macs(network, IMAGE) == MACS
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_bops_and_bytes_by_hand(network: QuantizableNetwork) -> None:
    space = Space.of(network)
    assert space.layers == ("3", "6", "9")
    assert dict(space.fixed) == {"0": BitMode(8, 8), "14": BitMode(8, 8)}
    genome = (0, 1, 2, 0, 1, 1)  # w2a4, w8a2, w4a4
    expected = 64 * (MACS["0"] + MACS["14"]) + 8 * MACS["3"] + 16 * MACS["6"] + 16 * MACS["9"]
    assert bops_cost(network, IMAGE).total(space.layer_modes(genome)) == expected
    sizes = {"0": 4 * 27, "3": 6 * 36, "6": 8 * 54, "9": 64, "14": 40}
    bits = sizes["0"] * 8 + sizes["14"] * 8 + sizes["3"] * 2 + sizes["6"] * 8 + sizes["9"] * 4
    assert bytes_cost(network).total(space.layer_modes(genome)) == bits / 8


def test_quantized_attention_counts_its_two_products() -> None:
    model = create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3)
    network = quantizable.quantize(model, [4, 32], attention=True)
    network.calibrate([torch.randn(2, 3, 32, 32)])
    counts = macs(network, torch.zeros(1, 3, 32, 32))
    tokens, width = 17, 192
    assert counts["blocks.0.attn"] == 2 * tokens * tokens * width
    assert counts["blocks.0.attn.qkv"] == tokens * width * 3 * width


def test_a_uniform_genome_is_the_networks_mode(network: QuantizableNetwork) -> None:
    space, x = Space.of(network), torch.randn(4, 3, 8, 8)
    for bits in (2, 4, 8):
        with network.at_bits(bits):
            expected = network(x)
        with network.at_bits(space.assignment(space.uniform(BitMode(bits, bits)))):
            assert torch.equal(network(x), expected)


def test_budgets_in_bits_and_in_numbers(network: QuantizableNetwork) -> None:
    space, cost = Space.of(network), bops_cost(network, IMAGE)
    fixed = 64 * (MACS["0"] + MACS["14"])
    free = MACS["3"] + MACS["6"] + MACS["9"]
    assert parse_budget("4bit", space, cost) == fixed + 16 * free
    assert parse_budget("3bit", space, cost) == fixed + 9 * free  # no such mode is needed
    assert parse_budget("3.5bit", space, cost) == fixed + 12.5 * free
    assert parse_budget("1e9", space, cost) == 1e9
    with pytest.raises(ValueError, match=f"smallest assignment needs {fixed + 4 * free:g}"):
        parse_budget("1000", space, cost)
    with pytest.raises(ValueError, match="budget nan"):
        parse_budget("nan", space, cost)
    assert parse_budget(" 4bit", space, cost) == fixed + 16 * free
    for text in ("four", "0bit", "17bit", "nanbit", "inf"):
        with pytest.raises(ValueError, match="not understood"):
            parse_budget(text, space, cost)


def test_lowering_stops_at_the_budget(network: QuantizableNetwork) -> None:
    space, cost = Space.of(network), bops_cost(network, IMAGE)
    budget = parse_budget("5bit", space, cost)
    lowered = space.lowered(space.highest, cost, budget, reversed(range(6)))
    assert cost.total(space.layer_modes(lowered)) <= budget
    assert lowered < space.highest
    assert space.lowered(space.lowest, cost, budget, range(6)) == space.lowest


def test_latency_adds_up_measurements_and_refuses_what_was_not_measured(
    network: QuantizableNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({name: {"2": 1.0, "8": 3.0} for name in network.layers()}))
    cost, space = latency_cost(path, network), Space.of(network)
    assert cost.total(space.layer_modes(space.lowest)) == 3 * 1.0 + 2 * 3.0
    with pytest.raises(ValueError, match="lacks mode 4"):
        cost.total(space.layer_modes(space.uniform(BitMode(4, 4))))
    with pytest.raises(ValueError, match="lacks mode"):
        parse_budget("4bit", space, cost)
    for wrong in (float("nan"), -1.0, float("inf")):
        path.write_text(json.dumps({name: {"2": 1.0, "8": wrong} for name in network.layers()}))
        with pytest.raises(ValueError, match="milliseconds are finite and at least 0"):
            latency_cost(path, network)
    path.write_text("{}")
    with pytest.raises(ValueError, match="lacks layer 0"):
        latency_cost(path, network)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="no latency table"):
        latency_cost(path, network)


def test_fewer_bits_may_take_longer(network: QuantizableNetwork, tmp_path: Path) -> None:
    """Engines run 2 to 8 bits alike, so that a measured table is in no order."""
    space, path = Space.of(network), tmp_path / "latency.json"
    slow = {"2": 2.0, "w2a4": 2.5}
    modes = [mode.name for mode in space.modes]
    path.write_text(json.dumps({n: {mode: slow.get(mode, 1.0) for mode in modes} for n in network.layers()}))
    cost = latency_cost(path, network)
    total = len(network.layers()) * 1.0  # uniform 8 bits, which the lowest widths exceed
    assert cost.total(space.layer_modes(space.lowest)) > total
    assert parse_budget("8bit", space, cost) == total
    assert cost.total(space.layer_modes(space.cheapest(cost))) == total
    assert cost.total(space.layer_modes(space.most_uniform(cost, total))) == total
    for order in (range(6), reversed(range(6))):
        lowered = space.lowered(space.lowest, cost, total, order)
        assert cost.total(space.layer_modes(lowered)) <= total
    with pytest.raises(ValueError, match=f"smallest assignment needs {total:g}"):
        parse_budget("4.9", space, cost)


def test_a_network_without_a_choice_is_refused() -> None:
    one_mode = quantizable.quantize(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), [4])
    with pytest.raises(ValueError, match="nothing to choose"):
        Space.of(one_mode)
    only_ends = quantizable.quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), [2, 4])
    with pytest.raises(ValueError, match="nothing to choose"):
        Space.of(only_ends)
