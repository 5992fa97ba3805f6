"""Nested weights (Double Rounding): every lower mode is a rounded shift of the highest mode's integers.

Huang et al., "Nearly Lossless Adaptive Bit Switching" (Double Rounding), 2025, arXiv:2502.01199.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, int_range
from quantizable.functional import SMALLEST_SCALE, QParams, positive, scale_gradient, straight_through
from quantizable.kernels.formulas import Nested
from quantizable.kernels.loops import loops_for, rows_and_length
from quantizable.kernels.one_pass import one_pass
from quantizable.quantizers.base import Level, Quantizer
from quantizable.quantizers.lsq import at_the_weights_rate
from quantizable.quantizers.step_size import (
    NORM,
    best_multiple,
    channel_shape,
    check_init,
    factors_between,
    paper_scale,
    rows_of,
)


class NestedWeight(Quantizer):
    """One learned step size ``s`` for the highest width ``h``; lower widths round its integers again.

    ``W_h = clip(round(w / s))``, ``W_l = clip(round(W_h / 2^(h-l)))``, value ``W_l * s * 2^(h-l)``: the
    integers of the highest width and one ``s`` are all that has to be stored. A mode moves ``s`` by the same
    share as LSQ would move a step size of its own.

    Args:
        weight: the float weight; the step size starts from it.
        bits: bit-widths, 2 to 16.
        axis: axis of the output channels for one ``s`` per channel, None for one in all.
        init: ``"search"``: the ``s`` with the least error summed over all widths; or ``"paper"``: as LSQ
            at the highest width.
    """

    scale: Tensor

    def __init__(
        self, weight: Tensor, bits: Iterable[int], axis: int | None = None, init: str = "search"
    ) -> None:
        super().__init__(bits)
        self.axis, self.init = axis, check_init(init)
        self.highest = max(map(int, self.levels), default=0)
        scale = nn.Parameter(torch.ones(channel_shape(weight, axis))) if self.highest else None
        self.register_parameter("scale", scale)
        self.refit(weight)

    def check_width(self, bits: int) -> None:
        super().check_width(bits)
        if FLOAT_BITS > bits > self.highest:
            raise ValueError(
                f"nested weights are stored at their highest width, {self.highest} bits; {bits} is more"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        held = [int(key.split(".")[-2]) for key in state_dict if key.startswith(prefix + "levels.")]
        key = prefix + "scale"
        if (
            held and max(held) != self.highest and key in state_dict
        ):  # a step of the checkpoint's highest width
            state_dict[key] = state_dict[key] * 2.0 ** (max(held) - self.highest)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def initialize(self, x: Tensor) -> None:
        scale = paper_scale(x, int_range(self.highest, signed=True)[1], self.axis).clamp_min(SMALLEST_SCALE)
        if self.init == "search":
            scale = self._search(x, scale)
        self.scale.copy_(scale)

    def _search(self, x: Tensor, around: Tensor) -> Tensor:
        """The multiple of ``around`` with the least error, summed over widths."""
        rows, shares = rows_of(x, self.axis)

        def error(scale: Tensor) -> Tensor:
            total = torch.zeros_like(scale)
            for level in self.levels.values():
                quantized = self._rounded(rows, scale, level)[1] * (scale * self._shift(level))
                total += ((quantized - rows).abs().pow(NORM) @ shares)[:, None]
            return total

        return best_multiple(error, around.reshape(-1, 1), factors_between(0.1, 10)).reshape(around.shape)

    def _shift(self, level: Level) -> float | Tensor:
        """``2^(h-l)``, from the level's range, so that a compiled graph does not depend on its bits."""
        return (1 << (self.highest - 1)) / (-level.bounds()[0])

    def _rounded(self, x: Tensor, scale: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """The code of the level before and after its last rounding, float32."""
        low, high = int_range(self.highest, signed=True)
        fine = (x / scale).clamp(low, high)
        fine = straight_through(fine, torch.round(fine))
        coarse = (fine / self._shift(level)).clamp(*level.bounds())
        return coarse, torch.round(coarse)

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        scale = positive(self.scale.detach()) * self._shift(level)
        return QParams(scale, torch.zeros_like(scale), level.quant_min, level.quant_max)

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        scale = positive(self.scale.detach())
        return self._rounded(x.float(), scale, self.level(bits))[1].to(torch.int32)

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        # LSQ sec. 2.2 for the level's own step size, shift * s: a gradient of s is `shift` times its gradient
        # and has to move something `shift` times as small
        shift, (low, high) = self._shift(level), level.bounds()
        factor = at_the_weights_rate((x.numel() / self.scale.numel() * high) ** -0.5, high)
        scale = positive(scale_gradient(self.scale, factor / shift**2))
        operations = partial(self._nested_quantize, level=level)
        if isinstance(low, int) and isinstance(high, int) and loops_for(x) and rows_and_length(x, scale):
            loops = Nested(float(shift), *int_range(self.highest, signed=True), low, high)
            return one_pass(loops, operations, x, scale)
        return operations(x, scale)

    def _nested_quantize(self, x: Tensor, scale: Tensor, level: Level) -> Tensor:
        before, rounded = self._rounded(x.float(), scale, level)
        return (straight_through(before, rounded) * (scale * self._shift(level))).to(x.dtype)
