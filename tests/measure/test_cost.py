"""Costs against sums done by hand."""

import pytest
import torch
from timm import create_model
from torch import nn

import quantizable
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.search.costs import bops_cost, macs
from tests.deploy.reuse import Siamese, Tied, TwoNames, TwoResolutions


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


@pytest.mark.parametrize("kind", [Siamese, TwoNames, TwoResolutions])
def test_a_layer_that_is_used_twice_multiplies_twice(kind: type[nn.Module]) -> None:
    network = quantizable.quantize(kind(), [8, 32])
    image = torch.zeros(1, 3, 8, 8)
    costs = {c.layer: c for c in layer_costs(network, (3, 8, 8), [8])}
    pixels = 8 * 8 + (4 * 4 if kind is TwoResolutions else 8 * 8)
    assert costs["conv"].macs == macs(network, image)["conv"] == pixels * 3 * 3 * 9
    assert costs["conv"].activation_bytes == 3 * 8 * 8 * (1 + 4)  # the larger of two resolutions
    assert costs["second"].macs == costs["second"].activation_bytes == 0  # never called


def test_a_shared_parameter_counts_once_and_has_integers_twice() -> None:
    model = Tied()
    network = quantizable.quantize(model, [8, 32])
    costs = layer_costs(network, (3, 8, 8), [8])
    assert mode_costs(network, costs)[0].parameters == sum(p.numel() for p in model.parameters())
    conv, second = costs[:2]
    assert conv.weight_bytes == second.weight_bytes == 81 + 4 * (3 + 3)


def test_the_projection_of_attention_counts_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x.flatten(2).transpose(1, 2))
            return self.last(self.attention(x, x, x)[0].mean(1))

    model = Net()
    network = quantizable.quantize(model, [8, 32])
    costs = layer_costs(network, (6, 3, 3))
    by_name = {c.layer: c.parameters for c in costs}
    assert by_name["attention"] == 3 * 8 * 9
    assert by_name["attention.out_proj"] == 8 * 9
    assert mode_costs(network, costs)[0].parameters == sum(p.numel() for p in model.parameters())


TOKENS, WIDTH = 17, 192


@pytest.mark.parametrize("quantized", [False, True])
def test_attention_products_count_whether_or_not_they_are_quantized(quantized: bool) -> None:
    model = create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=3)
    network = quantizable.quantize(model, [4, 32], attention=quantized)
    by_hand = {
        "patch_embed.proj": (TOKENS - 1) * WIDTH * 3 * 64,
        "blocks.0.attn.qkv": TOKENS * WIDTH * 3 * WIDTH,
        "blocks.0.attn": 2 * TOKENS * TOKENS * WIDTH,
        "blocks.0.attn.proj": TOKENS * WIDTH * WIDTH,
        "blocks.0.mlp.fc1": TOKENS * WIDTH * 4 * WIDTH,
        "blocks.0.mlp.fc2": TOKENS * WIDTH * 4 * WIDTH,
        "head": WIDTH * 3,
    }
    costs = {(c.mode, c.layer): c for c in layer_costs(network, (3, 32, 32))}
    for mode in ("4", "32"):
        assert {name: c.macs for (of, name), c in costs.items() if of == mode} == by_hand
    products = costs["4", "blocks.0.attn"]
    assert products.bops == products.macs * (16 if quantized else 1024)
    assert products.parameters == products.weight_bytes == 0
    assert network.bits == 32
    if quantized:
        scores = 3 * TOKENS * TOKENS
        assert products.activation_bytes == max(
            TOKENS * WIDTH + 4 * scores, -(-(scores + TOKENS * WIDTH) // 2) + 4 * TOKENS * WIDTH
        )


def test_torch_attention_counts_its_parts_in_float_and_quantized() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(6, 8), layer, nn.Flatten(), nn.Linear(8 * 5, 2))
    by_hand = {
        "1": 5 * 6 * 8, "2.self_attn": 5 * 8 * 24, "2.self_attn.products": 2 * 5 * 5 * 8,
        "2.self_attn.out_proj": 5 * 8 * 8, "2.linear1": 5 * 8 * 16, "2.linear2": 5 * 16 * 8, "4": 40 * 2,
    }  # fmt: skip
    network = quantizable.quantize(model, [4, 32])
    costs = {c.layer: c for c in layer_costs(network, (5, 2, 3), [4])}
    assert {name: c.macs for name, c in costs.items()} == by_hand
    assert costs["2.self_attn.products"].bops == 1024 * by_hand["2.self_attn.products"]


@pytest.mark.parametrize("attention", [False, True])
def test_costs_and_the_searchs_cost_agree(attention: bool) -> None:
    model = create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3)
    network = quantizable.quantize(model, [2, 4, 8], attention=attention)
    cost = bops_cost(network, torch.zeros(1, 3, 32, 32))
    rows = [c for c in layer_costs(network, (3, 32, 32)) if c.layer in network.layers()]
    for mode in network.modes:
        total = cost.total({name: layer.resolve(mode) for name, layer in network.layers().items()})
        assert total == sum(c.bops for c in rows if c.mode == mode.name)
