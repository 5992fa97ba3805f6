"""Sensitivity: SQNR against its closed form, and the table's rows against the network itself."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import quantizable
from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.quantizers import LSQActivation
from quantizable.search.scoring import Scorer
from quantizable.search.sensitivity import noise_ratios, sensitivity, sqnr, write_sensitivity
from quantizable.search.space import Space
from tests.deploy.reuse import Siamese


def test_sqnr_of_a_uniform_signal_grows_by_6_decibels_a_bit() -> None:
    x = torch.rand(50_000)
    quantizer = LSQActivation([6, 8])
    with torch.no_grad():
        quantizer.start_calibration()
        quantizer(x)
        quantizer.finish_calibration()
        for bits in (6, 8):  # the whole range in equal steps: error uniform in a step
            quantizer.level(bits).scale.fill_(1 / (2**bits - 1))
    # signal 1/3, noise step^2 / 12
    for bits in (6, 8):
        assert sqnr(x, quantizer, bits) == pytest.approx(10 * math.log10(4 * (2**bits - 1) ** 2), abs=0.1)
    assert sqnr(x, quantizer, 32) == math.inf


def test_one_layer_at_a_time(network: QuantizableNetwork, images: Tensor, tmp_path: Path) -> None:
    space = Space.of(network)
    reference = network(images)
    scorer = Scorer(network, images, reference.argmax(1), tmp_path)
    rows = sensitivity(scorer, space, [BitMode(2, 2), BitMode(8, 8)])
    assert [(row.layer, row.mode) for row in rows] == [(n, m) for n in ("3", "6", "9") for m in ("2", "8")]
    for low, high in zip(rows[::2], rows[1::2], strict=True):
        assert low.weight_sqnr < high.weight_sqnr
        assert low.kl > high.kl >= -1e-6
    with network.at_bits({"6": 2}, default=32):
        agreement = (network(images).argmax(1) == reference.argmax(1)).double().mean().item()
    assert rows[2].agreement == pytest.approx(agreement)
    write_sensitivity(tmp_path, rows)
    with (tmp_path / "sensitivity.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [row.layer for row in rows]
    assert (tmp_path / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"


def test_the_noise_of_all_uses_of_a_layer_is_counted() -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    network = quantizable.quantize(Siamese(), [4, 8], first_last="mode").eval()
    with pytest.warns(UserWarning, match="no data passed through second"):
        network.calibrate([images])
    ratios = noise_ratios(network, Space.of(network), images)
    both = torch.cat([images, -2 * images])  # what the convolution is called with
    expected = sqnr(both, network.model.conv.input_quantizer, 4)
    assert ratios["conv", BitMode(4, 4)][1] == pytest.approx(expected, abs=1e-4)
    assert ("second", BitMode(4, 4)) not in ratios
