"""LSQ (Esser et al. 2020) against its equations 1 to 3."""

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import LSQActivation, LSQWeight, Quantizer
from tests.quantizers.contract import WIDTHS, QuantizerContract, clip, mean


class TestLSQWeight(QuantizerContract):
    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return LSQWeight(x, widths)

    def data(self) -> Tensor:
        return torch.randn(8, 6, 3, 3) * 0.1

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        s = quantizer.level(bits).scale.item()
        return [s * round(clip(v / s, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        s = quantizer.level(bits).scale.detach().double()
        return s * (x / s).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradient_of_the_step_size(self, bits: int) -> None:
        """Eq. 3, times 1 / sqrt(n Q_P) (sec. 2.2), but 1 / Q_P^2 at most."""
        quantizer, x = self.ready(bits)
        upstream = torch.randn_like(x)
        (quantizer(x) * upstream).sum().backward()
        s, low, high = quantizer.level(bits).scale.item(), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        total = 0.0
        for v, g in zip(x.flatten().tolist(), upstream.flatten().tolist(), strict=True):
            v /= s
            total += g * (low if v <= low else high if v >= high else round(v) - v)
        expected = total * min((x.numel() * high) ** -0.5, high**-2)
        assert float(quantizer.level(bits).scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-5)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_a_step_of_sgd_moves_a_clipped_weight_no_further_than_another(self, bits: int) -> None:
        weight = torch.nn.Parameter(torch.rand(2, 4) * 0.1)
        weight.data[:, 0] = 90.0
        quantizer = LSQWeight(weight, [bits])
        quantizer.level(bits).scale.data.fill_(0.1)
        quantizer.set_bits(bits)
        before = quantizer(weight).detach()
        upstream = torch.zeros(2, 4)
        upstream[:, 0] = 1e-3
        quantizer(weight).backward(upstream)
        with torch.no_grad():
            quantizer.level(bits).scale -= quantizer.level(bits).scale.grad
        moved = (quantizer(weight) - before)[:, 0].abs().max()
        assert 0 < moved <= 2 * 1e-3 * 1.001  # as many weights are clipped as share the step size

    def test_paper_init(self) -> None:
        x = self.data()
        quantizer = LSQWeight(x, [2, 4], init="paper")
        values = [abs(v) for v in x.flatten().tolist()]
        for bits in (2, 4):
            expected = 2 * mean(values) / (2 ** (bits - 1) - 1) ** 0.5
            assert quantizer.level(bits).scale.item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_per_channel_is_each_channel_alone(self, axis: int) -> None:
        x = self.data()
        quantizer = LSQWeight(x, WIDTHS, axis=axis)
        alone = [LSQWeight(channel, WIDTHS) for channel in x.unbind(axis)]
        quantizer.set_bits(3)
        for one in alone:
            one.set_bits(3)
        expected = torch.stack([q(c) for q, c in zip(alone, x.unbind(axis), strict=True)], axis)
        torch.testing.assert_close(quantizer(x), expected)

    def test_unknown_init(self) -> None:
        with pytest.raises(ValueError, match="'best' is unknown; choose from search, paper"):
            LSQWeight(self.data(), [4], init="best")

    def test_one_bit_is_not_defined(self) -> None:
        with pytest.raises(ValueError, match="not defined at 1 bit"):
            LSQWeight(self.data(), [1, 2])


class TestLSQActivation(QuantizerContract):
    """After ReLU: codes from 0."""

    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return LSQActivation(widths)

    def data(self) -> Tensor:
        return torch.randn(4, 6, 5, 5).relu() + 1e-3

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        s = quantizer.level(bits).scale.item()
        return [s * round(clip(v / s, 0, 2**bits - 1)) for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        s = quantizer.level(bits).scale.detach().double()
        return s * (x / s).clamp(0, 2**bits - 1)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradient_of_the_step_size(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        quantizer(x).sum().backward()
        s, high = quantizer.level(bits).scale.item(), 2**bits - 1
        total = 0.0
        for v in x.flatten().tolist():
            v /= s
            total += 0 if v <= 0 else high if v >= high else round(v) - v
        expected = total / (x[0].numel() * high) ** 0.5  # n: features of one sample
        assert float(quantizer.level(bits).scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def test_paper_init(self) -> None:
        x = self.data()
        quantizer = LSQActivation([2], init="paper")
        quantizer.set_bits(2)
        quantizer(x)
        assert quantizer.level(2).scale.item() == pytest.approx(2 * float(x.mean()) / 3**0.5, rel=2e-2)

    def test_negative_data_gives_signed_codes(self) -> None:
        quantizer = LSQActivation([4])
        quantizer.set_bits(4)
        quantizer(torch.randn(100))
        assert quantizer.level(4).range.tolist() == [-8, 7]
        assert int(quantizer.codes(torch.tensor(-100.0))) == -8
