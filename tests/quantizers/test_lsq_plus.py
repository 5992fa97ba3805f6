"""LSQ+ (Bhalgat et al. 2020) against its equations 3 to 6."""

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import LSQPlusActivation, Quantizer
from tests.quantizers.contract import WIDTHS, QuantizerContract, clip


class TestLSQPlusActivation(QuantizerContract):
    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return LSQPlusActivation(widths)

    def data(self) -> Tensor:
        return torch.nn.functional.silu(2 * torch.randn(4, 6, 5, 5))

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        s, b = quantizer.level(bits).scale.item(), quantizer.level(bits).offset.item()
        return [round(clip((v - b) / s, 0, 2**bits - 1)) * s + b for v in x]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        level = quantizer.level(bits)
        s, b = level.scale.detach().double(), level.offset.detach().double()
        return ((x - b) / s).clamp(0, 2**bits - 1) * s + b

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradients_of_step_size_and_offset(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        level = quantizer.level(bits)
        with torch.no_grad():
            level.offset.add_(0.05)  # so that some values are clipped below, too
        upstream = torch.randn_like(x)
        (quantizer(x) * upstream).sum().backward()
        s, b, high = level.scale.item(), level.offset.item(), 2**bits - 1
        for_s = for_b = 0.0
        for v, g in zip(x.flatten().tolist(), upstream.flatten().tolist(), strict=True):
            v = (v - b) / s
            for_s += g * (0 if v <= 0 else high if v >= high else round(v) - v)
            for_b += g * (1 if v <= 0 or v >= high else 0)
        factor = (x[0].numel() * high) ** -0.5
        assert level.scale.grad.item() == pytest.approx(for_s * factor, rel=1e-3, abs=1e-4)
        assert level.offset.grad.item() == pytest.approx(for_b * factor, rel=1e-3, abs=1e-4)

    def test_the_offset_starts_at_the_smallest_value(self) -> None:
        quantizer, x = self.ready(4)
        assert quantizer.active.offset.item() == x.min().item()
        assert quantizer.qparams(x).zero_point.item() == pytest.approx(
            (-x.min() / quantizer.active.scale).item()
        )
