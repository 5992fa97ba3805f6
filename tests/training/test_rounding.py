"""Rounding with compensation: against OBQ written out, and what a layer computes against its patches."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2dSame
from torch import Tensor, nn

from quantizable import quantize
from quantizable.nn.layers import QuantLayer
from quantizable.training.own_parts import CORRECTION, own_parts
from quantizable.training.rounding import DAMPING, compensated, patches, round_weights


def inputs(count: int, size: int) -> Tensor:
    """Correlated, as those of a layer are."""
    return torch.randn(count, size) @ torch.randn(size, size)


def by_hand(weight: Tensor, square: Tensor, step: float, low: int, high: int) -> Tensor:
    """OBQ for one row, in the order of the diagonal: the inverse of H shrinks by each input that is done."""
    size, row = len(weight), weight.double().clone()
    inverse = (square + DAMPING * square.diagonal().mean() * torch.eye(size)).inverse()
    left = [*range(size)]
    for i in sorted(left, key=lambda i: -float(square[i, i])):
        value = float(row[i])
        left.remove(i)
        error = value - step * max(low, min(high, round(value / step)))
        for j in left:
            row[j] -= error * inverse[i, j] / inverse[i, i]
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return row


@pytest.mark.parametrize("seed", range(5))
def test_it_is_obq_written_out(seed: int) -> None:
    torch.manual_seed(seed)
    weight, scale = torch.randn(2, 3, 7), torch.rand(2, 3, 1) + 0.2
    squares = torch.stack([x.T @ x for x in (inputs(40, 7).double(), inputs(40, 7).double())])
    found = compensated(weight, squares, scale, -2, 1)
    for group in range(2):
        for row in range(3):
            step = float(scale[group, row])
            wanted = by_hand(weight[group, row], squares[group], step, -2, 1).float()
            torch.testing.assert_close(found[group, row], wanted, rtol=1e-4, atol=1e-5)


def test_inputs_that_do_not_go_together_are_rounded_to_the_nearest() -> None:
    weight = torch.randn(1, 4, 6)
    square = torch.diag(torch.rand(6).double() + 0.1)[None]
    square[0, 2, 2] = 0  # one that is always zero
    torch.testing.assert_close(compensated(weight, square, torch.ones(1, 4, 1), -2, 1), weight)
    torch.testing.assert_close(compensated(weight, square * 0, torch.ones(1, 4, 1), -2, 1), weight)


LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 3, 6)),
    "one vector": (nn.Linear(6, 4), (6,)),
    "conv1d": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    "groups": (nn.Conv2d(4, 6, (3, 1), groups=2, padding=1, padding_mode="reflect"), (2, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 4, 5, groups=4, padding=2, padding_mode="circular"), (2, 4, 9, 8)),
    "unbatched": (nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "same": (Conv2dSame(4, 6, 3, stride=2), (2, 4, 9, 8)),
    "standardized, same": (StdConv2dSame(4, 6, kernel_size=3, stride=2), (2, 4, 9, 8)),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1), (2, 2, 5, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_a_layer_is_its_weight_times_its_patches(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizable.training.rounding.AT_ONCE", at_once)
    layer, shape = LAYERS[name]
    network = quantize(nn.Sequential(copy.deepcopy(layer), nn.Flatten(0)), [4, 32], exclude=[])
    layer, x = network.model[0], torch.randn(shape)
    assert isinstance(layer, QuantLayer)
    with torch.no_grad(), network.at_bits(32):
        wanted = layer(x)
        rows = torch.cat([*patches(layer, x)], dim=1)
        weight = layer.float_weight().reshape(rows.shape[0], -1, rows.shape[2])
        found = torch.einsum("gpi,gri->pgr", rows, weight).flatten(1)  # [positions, channels]
        if layer.bias is not None:
            found = found + layer.bias
    if isinstance(layer, nn.Linear):
        torch.testing.assert_close(found.reshape(wanted.shape), wanted)
        return
    batched = wanted if wanted.dim() == x.dim() and x.dim() == layer.weight.dim() else wanted[None]
    torch.testing.assert_close(found, batched.movedim(1, -1).reshape(found.shape), rtol=1e-4, atol=1e-5)


def test_outputs_stay_closer_than_with_the_nearest_codes() -> None:
    torch.manual_seed(0)
    mixer = torch.randn(32, 32)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    network, x = quantize(model, ["w3a32", "w4a32", 32]), torch.randn(512, 32) @ mixer
    network.calibrate([x])
    others, layer, mode = torch.randn(512, 32) @ mixer, network.model[2], network.check_mode("w3a32")

    def off() -> float:
        with torch.no_grad(), network.at_bits(32):
            hidden, wanted = network.model[:2](others), network.model[:3](others)
        with torch.no_grad(), network.at_bits(mode):
            return float((layer(hidden) - wanted).square().mean() / wanted.var())

    before = off()
    parts = own_parts(network, [mode])[mode]
    corrections = [part.value for name, part in parts.items() if name.endswith(CORRECTION)]
    round_weights(network, [lambda network: network(x)], mode, corrections)
    assert off() < 0.7 * before
    assert layer.weight_quantizer.level(4).correction is None
    assert network.model[0].weight_quantizer.level(8).correction is None, "fixed bits, of all modes"


class ByKeyword(nn.Sequential):
    """Calls its second layer so that no hook is told the input."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, *others = self
        return nn.Sequential(*others)(second(input=first(x)))


@pytest.mark.parametrize("container", [nn.Sequential, ByKeyword])
def test_other_layers_keep_their_roundings(container: type[nn.Sequential]) -> None:
    second = nn.ConvTranspose2d(8, 8, 3) if container is nn.Sequential else nn.Conv2d(8, 8, 3)
    layers = [nn.Conv2d(3, 8, 3), second, nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)]
    network, x = quantize(container(*layers), [3, 32]), torch.randn(8, 3, 9, 9)
    network.calibrate([x])
    mode = network.check_mode(3)
    parts = own_parts(network, [mode])[mode]
    corrections = [part.value for name, part in parts.items() if name.endswith(CORRECTION)]
    round_weights(network, [lambda network: network(x)], mode, corrections)
    kept, set_anew = (network.model[i].weight_quantizer.level(3).correction for i in (1, 2))
    assert not kept.any()
    assert set_anew.any()
