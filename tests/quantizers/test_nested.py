"""Nested weights (Double Rounding, Huang et al. 2025): lower modes are shifts of the highest one's codes."""

import pytest
import torch
from torch import Tensor

from quantizable.quantizers import LSQWeight, NestedWeight, Quantizer
from tests.quantizers.contract import WIDTHS, QuantizerContract, clip


def shifted(code: int, shift: int, bits: int) -> int:
    """A code of the highest width as one of ``bits`` bits, in integers: half to even, then saturate."""
    whole, rest = code >> shift, code & ((1 << shift) - 1)
    half = 1 << shift >> 1
    if rest > half or (rest == half and shift and whole % 2):
        whole += 1
    return min(max(whole, -(1 << (bits - 1))), (1 << (bits - 1)) - 1)


class TestNestedWeight(QuantizerContract):
    def make(self, x: Tensor, widths: tuple[int, ...] = WIDTHS) -> Quantizer:
        return NestedWeight(x, widths)

    def data(self) -> Tensor:
        return torch.randn(8, 6, 3, 3) * 0.1

    def literal(self, x: list[float], quantizer: Quantizer, bits: int) -> list[float]:
        assert isinstance(quantizer, NestedWeight)
        s, step = quantizer.scale.item(), 2 ** (8 - bits)
        fine = [round(clip(v / s, -128, 127)) for v in x]
        return [round(clip(w / step, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) * s * step for w in fine]

    def surrogate(self, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
        assert isinstance(quantizer, NestedWeight)
        s, step = quantizer.scale.detach().double(), 2 ** (8 - bits)
        # which values are clipped at a low width is decided by the rounded integer of the highest
        fine = (x / s).clamp(-128, 127)
        fine = fine + (fine.round() - fine).detach()
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return (fine / step).clamp(low, high) * s * step

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_every_code_is_a_shift_of_the_highest_code(self, bits: int) -> None:
        quantizer, x = self.ready(bits)
        highest = quantizer.codes(x, 8).flatten().tolist()
        assert quantizer.codes(x).flatten().tolist() == [shifted(c, 8 - bits, bits) for c in highest]

    def test_one_step_size_serves_all_widths(self) -> None:
        quantizer, x = self.ready(2)
        assert [name for name, _ in quantizer.named_parameters()] == ["scale"]
        assert quantizer.qparams(x).scale.item() == 64 * quantizer.qparams(x, 8).scale.item()

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_gradient_of_the_step_size(self, bits: int) -> None:
        """STE through both roundings, times LSQ's factor for a step size that is 2^(8 - bits) as large."""
        quantizer, x = self.ready(bits)
        assert isinstance(quantizer, NestedWeight)
        quantizer(x).sum().backward()
        s, step = quantizer.scale.item(), 2 ** (8 - bits)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        total = 0.0
        for v in (v / s for v in x.flatten().tolist()):
            fine = round(clip(v, -128, 127))
            code = round(clip(fine / step, low, high))
            passes = -128 <= v <= 127 and low <= fine / step <= high
            total += code * step - (v if passes else 0)
        expected = total * min((x.numel() * high) ** -0.5, high**-2) / step**2
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad.item() == pytest.approx(expected, rel=1e-3, abs=1e-4 / step**2)

    @pytest.mark.parametrize("bits", WIDTHS)
    def test_a_mode_moves_the_step_size_by_the_share_that_lsq_would(self, bits: int) -> None:
        """On values that are fine codes already both round alike: their gradients differ by scale alone."""
        quantizer, x = self.ready(bits)
        assert isinstance(quantizer, NestedWeight)
        step = 2 ** (8 - bits)
        x = quantizer.codes(x, 8) * quantizer.scale.detach()
        lsq = LSQWeight(x, [bits])
        lsq.level(bits).scale.data = quantizer.scale.detach() * step
        lsq.set_bits(bits)
        for one in (quantizer, lsq):
            one(x).square().sum().backward()
        share = quantizer.scale.grad / quantizer.scale
        torch.testing.assert_close(
            share, lsq.level(bits).scale.grad / lsq.level(bits).scale, rtol=1e-2, atol=0
        )

    def test_per_channel(self) -> None:
        x = self.data()
        quantizer = NestedWeight(x, WIDTHS, axis=0)
        quantizer.set_bits(4)
        alone = []
        for channel in x:
            one = NestedWeight(channel, WIDTHS)
            one.set_bits(4)
            alone.append(one(channel))
        torch.testing.assert_close(quantizer(x), torch.stack(alone))
