"""SAT / AdaBits weights (Jin et al. 2019, 2020): three roundings and the rescale."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import Quantizer, SATWeight
from tests.quantizers.contract import WIDTHS, QuantizerContract

FAN_OUT = 8 * 3 * 3


class TestSATCentered(QuantizerContract):
    idempotent = False  # its output is normalized by tanh again, as DoReFa's
    rounding = "centered"

    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return SATWeight(x, widths, rounding=self.rounding)

    def data(self) -> Tensor:
        return torch.randn(8, 6, 3, 3)

    def rounded(self, u: float, bits: int) -> float:
        return 2 * (min(math.floor(u * 2**bits), 2**bits - 1) + 0.5) / 2**bits - 1

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        top = max(abs(math.tanh(v)) for v in x)
        values = [self.rounded(math.tanh(v) / (2 * top) + 0.5, bits) for v in x]
        spread = statistics.stdev(values)
        return [v / (spread * FAN_OUT**0.5) for v in values]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        top = x.tanh().abs().max()
        values = [
            self.rounded(u, bits) for u in (x.tanh() / (2 * top) + 0.5).detach().flatten().tolist()
        ]  # the rescale is a constant to the gradient
        return x.tanh() / top / (statistics.stdev(values) * FAN_OUT**0.5)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_the_spread_is_that_of_the_paper(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        assert quantizer(x).std().item() == pytest.approx(FAN_OUT**-0.5, rel=1e-4)

    def test_one_bit(self) -> None:
        x = self.data()
        quantizer = self.make(x, (1,))
        quantizer.set_bits(1)
        assert len(quantizer(x).unique()) == 2
        assert torch.equal(quantizer.codes(x), (x > 0).int())

    def test_codes_nest(self) -> None:
        quantizer, x = self.ready()
        for bits in (2, 3, 4):
            assert torch.equal(quantizer.codes(x, bits), quantizer.codes(x, 8) >> (8 - bits))


class TestSATModified(TestSATCentered):
    rounding = "modified"

    def rounded(self, u: float, bits: int) -> float:
        return 2 * min(math.floor(u * 2**bits), 2**bits - 1) / 2**bits - 1

    def test_the_mean_is_shifted_at_2_bits_and_centered_is_not(self) -> None:
        x = torch.linspace(-0.99, 0.99, 8000).atanh()
        x = x.reshape(8, 1000, 1, 1)
        means = {}
        for rounding in ("modified", "centered"):
            quantizer = SATWeight(x, [2], rounding=rounding)
            quantizer.set_bits(2)
            qparams = quantizer.qparams(x)
            means[rounding] = (quantizer.codes(x).float() - qparams.zero_point).mean().item() * 2 / 4
        assert means["modified"] == pytest.approx(-0.25, abs=1e-2)
        assert means["centered"] == pytest.approx(0, abs=1e-2)


class TestSATOriginal(TestSATCentered):
    rounding = "original"

    def rounded(self, u: float, bits: int) -> float:
        return 2 * round(u * (2**bits - 1)) / (2**bits - 1) - 1

    def test_codes_nest(self) -> None:
        """They do not: the reason for the other two roundings."""
        quantizer, x = self.ready()
        differ = (quantizer.codes(x, 2) != quantizer.codes(x, 8) >> 6).float().mean()
        assert differ > 0.1


def test_unknown_rounding() -> None:
    with pytest.raises(ValueError, match="choose from original, modified, centered"):
        SATWeight(torch.randn(2, 2, 1, 1), [4], rounding="up")
