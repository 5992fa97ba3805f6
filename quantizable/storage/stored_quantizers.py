"""Quantizers read from a file: they hold integers and grids, and learn nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantizable.functional import QParams, dequantize, fake_quantize
from quantizable.quantizers import Level, Quantizer, Unrounded


class StoredInput(Quantizer):
    """Quantizes to a stored grid, whichever quantizer it was learned with.

    Args:
        grids: scale, zero point and code range for each bit-width.
    """

    min_bits = 1

    def __init__(self, grids: Mapping[int, QParams]) -> None:
        super().__init__(grids)
        for bits, grid in grids.items():
            level = self.level(bits)
            level.set_signed(grid.quant_min < 0)
            level.register_buffer("stored_scale", grid.scale)
            level.register_buffer("stored_zero_point", grid.zero_point)
        # DoReFa reaches less than the range of its bit-width, which is all that a level keeps
        self.ranges = {bits: (grid.quant_min, grid.quant_max) for bits, grid in grids.items()}

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        low, high = self.ranges[level.bits]
        return QParams(level.get_buffer("stored_scale"), level.get_buffer("stored_zero_point"), low, high)

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:  # of an input's gradients; nothing is learned
            return fake_quantize(x, *self.qparams(x, level.bits))
        return super().fake_quantize(x, level)


class StoredRange(Unrounded, StoredInput):
    """Clamps to the range of a stored grid."""

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        grid = self.qparams(x, level.bits)
        low, high = ((code - grid.zero_point) * grid.scale for code in (grid.quant_min, grid.quant_max))
        return x.clamp(low, high)


class StoredWeight(StoredInput):
    """Gives out stored integers, whatever float weight it is asked about.

    Args:
        grids: as for :class:`StoredInput`; a scale may be one per output channel.
        codes: int32 codes of the weight for each bit-width.
    """

    def __init__(self, grids: Mapping[int, QParams], codes: Mapping[int, Tensor]) -> None:
        super().__init__(grids)
        for bits, integers in codes.items():
            small = torch.int16 if bits > 7 else torch.int8
            self.level(bits).register_buffer("stored_codes", integers.to(small))

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        return self.level(bits).get_buffer("stored_codes").to(torch.int32)

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        return dequantize(self.codes(x, level.bits), self.qparams(x, level.bits))

    def value(self, bits: int) -> Tensor:
        """The weight at ``bits`` bits, float32."""
        nothing = torch.empty(0)
        return dequantize(self.codes(nothing, bits), self.qparams(nothing, bits))
