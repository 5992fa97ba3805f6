"""DoReFa-Net: tanh-normalized weights and activations clipped to [0, 1].

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients", 2016, arXiv:1606.06160, eq. 7 to 11.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from quantizable.functional import QParams, straight_through
from quantizable.kernels.formulas import Clip, Unit
from quantizable.kernels.loops import loops_for
from quantizable.kernels.one_pass import one_pass
from quantizable.quantizers.base import Level, Quantizer


def tanh_unit(w: Tensor) -> Tensor:
    """``tanh(w) / (2 max|tanh(w)|) + 1/2``: the weights squeezed into [0, 1] (eq. 9)."""
    t = torch.tanh(w.float())
    return t / (2 * t.abs().max().clamp_min(1e-12)) + 0.5


class DoReFaWeight(Quantizer):
    """``w_q = 2 round(u n) / n - 1``, ``u = tanh_unit(w)``, ``n = 2^k - 1``; at 1 bit ``sign(w) mean|w|``.

    Codes are ``0 .. n`` and the zero point is ``n / 2``: there is no zero level.

    Args:
        weight: the float weight (not needed, taken so that all weight quantizers are built alike).
        bits: bit-widths, 1 to 16.
        axis: must be None; one scale serves the tensor.
        rescale: multiply by the detached ``mean|w|`` (Any-Precision DNN, Yu et al., AAAI 2021), which
            keeps the size of the float weights; the paper does so at 1 bit only.
    """

    min_bits = 1
    signed = False
    binary_gradient_skips_tanh = True  # eq. 7: d w_q / d w = 1 at 1 bit

    def __init__(
        self, weight: Tensor, bits: Iterable[int], axis: int | None = None, rescale: bool = False
    ) -> None:
        if axis is not None:
            raise ValueError("DoReFa normalizes the whole tensor: per-channel weights are not defined for it")
        self.rescale = rescale
        super().__init__(bits)

    def unit_codes(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Codes before and after rounding, float32, shape of ``x``; :meth:`unit_steps` says how."""
        steps, floor = self.unit_steps(level)
        before = tanh_unit(x) * steps
        return before, torch.floor(before).clamp(max=level.bounds()[1]) if floor else torch.round(before)

    def unit_steps(self, level: Level) -> tuple[int | Tensor, bool]:
        """What the unit is multiplied with, and whether the product is rounded down, to ``n`` at most."""
        return level.bounds()[1], False

    def grid(self, x: Tensor, level: Level, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale and zero point, scalars; ``codes``: those of ``x``, if they are known."""
        high = torch.as_tensor(level.bounds()[1], dtype=torch.float32, device=x.device)
        scale = 2 / high
        if self.rescale or (level.binary and self.binary_gradient_skips_tanh):
            scale = scale * x.detach().float().abs().mean()
        return scale, high / 2

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        return QParams(*self.grid(x, level), level.quant_min, level.quant_max)

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        return self.unit_codes(x, self.level(bits))[1].to(torch.int32)

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        operations = partial(self._unit_quantize, level=level)
        steps, floor = self.unit_steps(level)
        skips = level.binary and self.binary_gradient_skips_tanh
        if skips or not isinstance(steps, int) or not loops_for(x):
            return operations(x)
        grid = partial(self._grid_of_codes, level=level)
        return one_pass(Unit(steps, floor, level.quant_max, grid), operations, x)

    def _grid_of_codes(self, x: Tensor, codes: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return self.grid(x, level, codes)

    def _unit_quantize(self, x: Tensor, level: Level) -> Tensor:
        before, rounded = self.unit_codes(x, level)
        scale, zero_point = self.grid(x, level, rounded)
        if level.binary and self.binary_gradient_skips_tanh:
            return straight_through(x, ((rounded - zero_point) * scale).to(x.dtype))
        return ((straight_through(before, rounded) - zero_point) * scale).to(x.dtype)


class DoReFaActivation(Quantizer):
    """``round(clip(a, 0, 1) n) / n`` with ``n = 2^k - 1`` (eq. 11).

    Where the data at initialization has negative values the range is ``[-1, 1]`` (our extension, as the
    paper knows only activations after ReLU), with codes ``-(2^(k-1) - 1) .. 2^(k-1) - 1``.

    Args:
        bits: bit-widths, 1 to 16 (1 only on non-negative inputs).
    """

    min_bits = 1

    def starts_initialized(self) -> bool:
        return False

    def make_level(self, bits: int) -> Level:
        return Level(bits, signed=False)

    def initialize(self, x: Tensor) -> None:
        choose_sign(self, x)

    def clip_at(self, level: Level) -> Tensor:
        """Largest value of the range, a scalar."""
        return torch.ones((), device=level.range.device)

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        scale = self.clip_at(level).detach() / level.bounds()[1]
        return QParams(scale, torch.zeros_like(scale), level.quant_min, level.quant_max)

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        level = self.level(bits)
        clipped = clip(x, self.clip_at(level), level.bounds()[0])
        return torch.round(clipped / self.qparams(x, bits).scale).to(torch.int32)

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        top, (low, high) = self.clip_at(level), level.bounds()
        operations = partial(clip_quantize, low=low, high=high)
        if isinstance(low, int) and isinstance(high, int) and top.dtype == torch.float32 and loops_for(x):
            return one_pass(Clip(low, high), operations, x, top)
        return operations(x, top)


def clip(x: Tensor, top: Tensor, low: int | Tensor) -> Tensor:
    """``x`` (float32) between 0, or -top if the smallest code is below 0, and ``top``, a scalar."""
    bottom = top * torch.clamp(torch.as_tensor(low), -1, 0)
    x = x.float()
    # not clamp: at the ends its gradient would be shared out between x and top
    return torch.where(x >= top, top, torch.where(x < bottom, bottom, x))


def clip_quantize(x: Tensor, top: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """``x`` clipped, as dequantized codes ``low`` to ``high``, with the gradients of :func:`clip`."""
    scale = top.detach() / high
    clipped = clip(x, top, low)
    return straight_through(clipped, torch.round(clipped.detach() / scale) * scale).to(x.dtype)


def choose_sign(quantizer: Quantizer, x: Tensor) -> None:
    """Signed codes if the sample has negative values; 1 bit has none (``ValueError``)."""
    signed = bool(x.min() < 0)
    for level in quantizer.levels.values():
        if signed and level.binary:
            raise ValueError(
                f"1-bit {type(quantizer).__name__} needs non-negative inputs (after ReLU), but these reach "
                f'{x.min():.3g}; keep the layer in float (exclude=...) or give activations more bits ("w1a8")'
            )
        level.set_signed(signed)
