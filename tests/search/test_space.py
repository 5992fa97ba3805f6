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
from quantizable.search.budget import make_budget, parse_budget
from quantizable.search.costs import (
    Cost,
    activation_bits_cost,
    bops_cost,
    bytes_cost,
    latency_cost,
    macs,
    weight_bits_cost,
)
from quantizable.search.limits import Budget
from quantizable.search.space import Space

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


def most(text: str, space: Space, cost: Cost) -> float:
    return parse_budget(text, space, cost).limits[0].most


def test_budgets_in_bits_and_in_numbers(network: QuantizableNetwork) -> None:
    space, cost = Space.of(network), bops_cost(network, IMAGE)
    fixed = 64 * (MACS["0"] + MACS["14"])
    free = MACS["3"] + MACS["6"] + MACS["9"]
    assert most("4bit", space, cost) == fixed + 16 * free
    assert most("3bit", space, cost) == fixed + 9 * free  # no such mode is needed
    assert most("3.5bit", space, cost) == fixed + 12.5 * free
    assert most("1e9", space, cost) == 1e9
    with pytest.raises(ValueError, match=f"smallest assignment needs {fixed + 4 * free:g}"):
        parse_budget("1000", space, cost)
    with pytest.raises(ValueError, match="budget nan"):
        parse_budget("nan", space, cost)
    assert most(" 4bit", space, cost) == fixed + 16 * free
    for text in ("four", "0bit", "17bit", "nanbit", "inf"):
        with pytest.raises(ValueError, match="not understood"):
            parse_budget(text, space, cost)


def test_lowering_stops_at_the_budget(network: QuantizableNetwork) -> None:
    space, cost = Space.of(network), bops_cost(network, IMAGE)
    budget = parse_budget("5bit", space, cost)
    lowered = space.lowered(space.highest, budget, reversed(range(6)))
    assert budget.holds(space.layer_modes(lowered))
    assert lowered < space.highest
    assert space.lowered(space.lowest, budget, range(6)) == space.lowest


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
    budget = parse_budget("8bit", space, cost)
    assert budget.limits[0].most == total
    assert cost.total(space.layer_modes(space.cheapest(budget))) == total
    assert cost.total(space.layer_modes(space.most_uniform(budget))) == total
    for order in (range(6), reversed(range(6))):
        lowered = space.lowered(space.lowest, budget, order)
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


def test_mean_bits_by_hand(network: QuantizableNetwork) -> None:
    space = Space.of(network)
    genome = (0, 1, 2, 0, 1, 1)  # w2a4, w8a2, w4a4
    modes = space.layer_modes(genome)
    weights = weight_bits_cost(network, space.layers)
    assert weights.total(modes) == pytest.approx((216 * 2 + 432 * 8 + 64 * 4) / (216 + 432 + 64))
    activations = activation_bits_cost(network, space.layers, IMAGE)
    inputs = 4 * 64, 6 * 16, 8 * 16  # channels times places that each layer reads
    expected = (inputs[0] * 4 + inputs[1] * 2 + inputs[2] * 4) / sum(inputs)
    assert activations.total(modes) == pytest.approx(expected)
    for cost in (weights, activations):  # the fixed layers, at 8 bits, are no part of it
        for bits in (2, 4, 8):
            uniform = space.layer_modes(space.uniform(BitMode(bits, bits)))
            assert cost.total(uniform) == pytest.approx(bits)
        assert most("2.5", space, cost) == most("2.5bit", space, cost) == pytest.approx(2.5)


def test_both_operands_of_quantized_attention_count_among_the_activations() -> None:
    model = create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3)
    network = quantizable.quantize(model, [4, 8, 32], attention=True)
    network.calibrate([torch.randn(2, 3, 32, 32)])
    name, tokens, width, heads = "blocks.0.attn", 17, 192, 3
    cost = activation_bits_cost(network, [name, f"{name}.qkv"], torch.zeros(1, 3, 32, 32))
    inputs = tokens * width  # of the projection
    operands = 3 * inputs + heads * tokens**2  # queries, keys, values, and the attention
    modes = {name: BitMode(4, 4), f"{name}.qkv": BitMode(8, 8)}
    assert cost.total(modes) == pytest.approx((4 * operands + 8 * inputs) / (operands + inputs))


def test_several_limits_hold_together(network: QuantizableNetwork) -> None:
    space = Space.of(network)
    costs = {"bops": bops_cost(network, IMAGE), "bytes": bytes_cost(network)}
    budget = make_budget({"bytes": "4bit", "bops": "2.5bit"}, space, costs.__getitem__)
    assert str(budget) == "bytes=4bit bops=2.5bit"
    assert budget.costs(space.layer_modes(space.lowest)) == {
        name: costs[name].total(space.layer_modes(space.lowest)) for name in ("bytes", "bops")
    }
    mixed = space.layer_modes(space.uniform(BitMode(4, 2)))
    assert costs["bytes"].total(mixed) == budget.limits[0].most
    assert [limit.cost.name for limit in budget.over(mixed)] == ["bops"]  # 8 is more than 6.5
    assert not budget.holds(mixed)
    lowered = space.lowered(space.highest, budget, range(6))
    assert budget.holds(space.layer_modes(lowered))
    assert space.most_uniform(budget) == space.lowest


def test_limits_that_only_a_mixture_keeps(network: QuantizableNetwork) -> None:
    """Two tables of milliseconds that contradict each other: no layer's sum of shares tells what fits."""
    space = Space.of(network, activations=[8])
    one = Cost("one", "ms", lambda name, mode: 2.0 if mode.weight == 2 and name == "3" else 1.0)
    other = Cost("other", "ms", lambda name, mode: 0.0 if mode.weight == 2 else 2.0)
    budget = Budget((*Budget.of(one, 5.0).limits, *Budget.of(other, 6.0).limits))
    assert not budget.holds(space.layer_modes(space.cheapest(budget)))
    assert budget.holds(space.layer_modes(space.within(budget)))
    space.check_budget(budget)
    narrow = Budget((*Budget.of(one, 5.0).limits, *Budget.of(other, 5.0).limits))
    with pytest.raises(ValueError, match="no assignment keeps all limits at once"):
        space.check_budget(narrow)


def test_mean_bits_limit_the_sides_that_can_be_chosen(network: QuantizableNetwork) -> None:
    def cost(name: str) -> Cost:
        return {
            "weight_bits": lambda: weight_bits_cost(network, space.layers),
            "activation_bits": lambda: activation_bits_cost(network, space.layers, IMAGE),
        }[name]()

    space = Space.of(network)
    budget = make_budget({"mean_bits": "2.5"}, space, cost)
    assert [(limit.cost.name, limit.most) for limit in budget.limits] == [
        ("weight_bits", 2.5),
        ("activation_bits", 2.5),
    ]
    space = Space.of(network, activations=[8])
    budget = make_budget({"mean_bits": "2.5"}, space, cost)
    assert [limit.cost.name for limit in budget.limits] == ["weight_bits"]


def test_one_side_can_be_held_at_one_width(network: QuantizableNetwork) -> None:
    space = Space.of(network, activations=[4])
    assert space.modes == [BitMode(2, 4), BitMode(4, 4), BitMode(8, 4)]
    cost = bytes_cost(network)
    budget = parse_budget("4bit", space, cost)
    assert space.layer_modes(space.most_uniform(budget))["6"] == BitMode(4, 4)
    bops = bops_cost(network, IMAGE)  # 3 bits of what can be chosen: weights
    free = MACS["3"] + MACS["6"] + MACS["9"]
    assert most("3bit", space, bops) == 64 * (MACS["0"] + MACS["14"]) + 3 * 4 * free
    with pytest.raises(
        ValueError, match="no mode of the network has activations of 3 bits; there are 2, 4, 8"
    ):
        Space.of(network, activations=[3])
