"""The integer reference against sums in numpy int64, and against fake quantization."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.divergence import fake_quant_codes, reference_codes, step_differences
from quantizable.deploy.reference import integer_network
from quantizable.quantizers import QUANTIZERS
from quantizable.storage.integers import integer_input, integer_weight

TIES = 1e-3  # share of codes that may be one step off where a real requantization lands on a half


def convolve(codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A 3x3 convolution, padding 1, one term at a time, in int64."""
    batch, _, height, width = codes.shape
    padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((batch, len(weight), height, width), np.int64)
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + height, j : j + width]
            out += np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    return out


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_layer_is_the_sum_of_integer_products(bits: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    network = quantizable.quantize(model, [bits], first_last="mode").eval()
    x = torch.randn(2, 3, 5, 5)
    network.calibrate([x])
    layer = network.layers()["0"]
    weight = integer_weight(layer.weight_quantizer, layer.weight, bits)
    grid = integer_input(layer.input_quantizer, bits)
    sums = convolve(grid.codes(x).long().numpy() - grid.zero_point, weight.integers.long().numpy())
    assert np.abs(sums).max() < 2**31
    scale = grid.scale.double() * weight.scale.double().flatten()
    expected = (
        sums * scale[:, None, None].detach().numpy() + layer.bias.detach().double()[:, None, None].numpy()
    )
    got = integer_network(network, bits, x)(x.double())
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(got.detach().numpy(), network(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed_point", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_codes_of_every_layer_are_those_of_fake_quant(
    make, images: Tensor, name: str, bits: int, fixed_point: bool
) -> None:
    network = make(name)
    expected = fake_quant_codes(network, bits, images)
    # each layer starts from the fake-quant codes, else it would inherit the differences of those before
    found = step_differences(expected, reference_codes(network, bits, images, fixed_point, given=expected))
    assert [d.layer for d in found] == ["stem", "block", "depthwise", "point", "head"]
    for difference in found:
        assert difference.largest <= 1, difference
        # the last layer sees few values, of which one on a tie is more than a thousandth
        assert difference.differing <= max(TIES, 1 / (len(images) * 10)), difference


def test_sums_beyond_int32_are_refused() -> None:
    network = quantizable.quantize(nn.Sequential(nn.Linear(70000, 1)), ["w16a16"], first_last="mode").eval()
    with torch.no_grad():
        network.model[0].weight.fill_(0.01)
        network.layers()["0"].weight_quantizer.refit(network.model[0].weight)
    x = torch.ones(2, 70000)
    network.calibrate([x])
    with pytest.raises(OverflowError, match="int32"):
        integer_network(network, "w16a16", x)(x.double())
