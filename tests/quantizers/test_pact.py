"""PACT (Choi et al. 2018) against its equations 1 to 3."""

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import PACTActivation, Quantizer
from tests.quantizers.contract import WIDTHS, QuantizerContract, clip


class TestPACTActivation(QuantizerContract):
    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return PACTActivation(widths)

    def data(self) -> Tensor:
        return torch.randn(4, 6, 5, 5).relu() + 1e-3

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        alpha, n = quantizer.level(bits).alpha.item(), 2**bits - 1
        return [round(clip(v, 0, alpha) * n / alpha) * alpha / n for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        alpha = quantizer.level(bits).alpha.detach().double()
        return torch.where(x < alpha, x, alpha).clamp_min(0)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradient_of_alpha_is_1_where_clipped(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        alpha = quantizer.level(bits).alpha
        with torch.no_grad():
            alpha.copy_(x.flatten()[x.argmax()] / 2)
            x.flatten()[0] = alpha  # x = alpha counts as clipped (eq. 3)
        upstream = torch.randn_like(x)
        (quantizer(x) * upstream).sum().backward()
        assert alpha.grad is not None
        torch.testing.assert_close(alpha.grad, upstream[x >= alpha].sum())

    def test_alpha_per_width(self) -> None:
        quantizer, x = self.ready(2)
        with torch.no_grad():
            quantizer.level(2).alpha.mul_(0.5)
        clipped = quantizer(x).max().item()
        quantizer.set_bits(4)
        assert quantizer(x).max().item() == pytest.approx(2 * clipped)

    def test_alpha_starts_at_a_high_percentile(self) -> None:
        quantizer, x = self.ready(4)
        assert (x <= quantizer.active.alpha).float().mean() > 0.99


class TestPACTActivationSigned(TestPACTActivation):
    """Our extension to inputs with negative values: the range [-alpha, alpha]."""

    def data(self) -> Tensor:
        return torch.randn(4, 6, 5, 5)

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        alpha, n = quantizer.level(bits).alpha.item(), 2 ** (bits - 1) - 1
        return [round(clip(v, -alpha, alpha) * n / alpha) * alpha / n for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        alpha = quantizer.level(bits).alpha.detach().double()
        return torch.where(x < alpha, x, alpha).clamp_min(-alpha)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradient_of_alpha_is_1_where_clipped(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        alpha = quantizer.level(bits).alpha
        with torch.no_grad():
            alpha.fill_(0.5)
        quantizer(x).sum().backward()
        assert alpha.grad is not None
        expected = (x >= 0.5).sum() - (x < -0.5).sum()
        torch.testing.assert_close(alpha.grad, expected.float())
