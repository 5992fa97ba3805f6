"""DoReFa-Net (Zhou et al. 2016) against its equations 7 to 11."""

import math

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import DoReFaActivation, DoReFaWeight, Quantizer
from tests.quantizers.contract import WIDTHS, QuantizerContract, clip, mean


class TestDoReFaWeight(QuantizerContract):
    idempotent = False  # its output is normalized by tanh again: w_q = 1/3 becomes tanh(1/3) / tanh(1)

    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return DoReFaWeight(x, widths)

    def data(self) -> Tensor:
        return torch.randn(8, 6, 3, 3)

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        n, top = 2**bits - 1, max(abs(math.tanh(v)) for v in x)
        return [2 * round((math.tanh(v) / (2 * top) + 0.5) * n) / n - 1 for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        return x.tanh() / x.tanh().abs().max()

    def test_one_bit_is_the_sign_times_the_mean(self) -> None:
        """Eq. 7; its gradient passes unchanged."""
        x = self.data().requires_grad_()
        quantizer = DoReFaWeight(x, [1])
        quantizer.set_bits(1)
        size = mean([abs(v) for v in x.flatten().tolist()])
        torch.testing.assert_close(quantizer(x), x.detach().sign() * size)
        upstream = torch.randn_like(x)
        (quantizer(x) * upstream).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, upstream)

    def test_there_is_no_zero_level(self) -> None:
        quantizer, x = self.ready(2)
        assert quantizer.qparams(x).zero_point.item() == 1.5
        assert (quantizer(x) != 0).all()

    def test_per_channel_is_refused(self) -> None:
        with pytest.raises(ValueError, match="per-channel weights are not defined"):
            DoReFaWeight(self.data(), [4], axis=0)


class TestDoReFaWeightRescaled(TestDoReFaWeight):
    """Any-Precision's variant: times the detached mean of |w|."""

    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return DoReFaWeight(x, widths, rescale=True)

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        size = mean([abs(v) for v in x])
        return [size * v for v in super().literal(x, quantizer, bits)]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        return super().surrogate(x, quantizer, bits) * x.detach().abs().mean()


class TestDoReFaActivation(QuantizerContract):
    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return DoReFaActivation(widths)

    def data(self) -> Tensor:
        return torch.rand(4, 6, 5, 5) * 1.5

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        n = 2**bits - 1
        return [round(clip(v, 0, 1) * n) / n for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        return x.clamp(0, 1)

    def test_one_bit(self) -> None:
        quantizer = DoReFaActivation([1])
        quantizer.set_bits(1)
        assert quantizer(torch.tensor([0.1, 0.4, 0.6, 3.0])).tolist() == [0, 0, 1, 1]

    def test_one_bit_on_signed_data_is_refused(self) -> None:
        quantizer = DoReFaActivation([1])
        quantizer.set_bits(1)
        with pytest.raises(ValueError, match="needs non-negative inputs"):
            quantizer(torch.tensor([-1.0, 1.0]))


class TestDoReFaActivationSigned(TestDoReFaActivation):
    """Our extension to inputs with negative values: the range [-1, 1]."""

    def data(self) -> Tensor:
        return torch.randn(4, 6, 5, 5)

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        n = 2 ** (bits - 1) - 1
        return [round(clip(v, -1, 1) * n) / n for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        return x.clamp(-1, 1)
