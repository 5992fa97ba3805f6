"""LSQ+: LSQ with a learned offset for skewed activations (after SiLU, GELU, Swish).

Bhalgat et al., "LSQ+: Improving low-bit quantization through learnable offsets and better
initialization", CVPR workshops 2020, arXiv:2004.09576.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizable.functional import QParams, fake_quantize, positive
from quantizable.quantizers.base import Level
from quantizable.quantizers.lsq import LSQActivation
from quantizable.quantizers.step_size import search_scales


class LSQPlusActivation(LSQActivation):
    """``x_q = s * clip(round((x - b) / s), 0, 2^k - 1) + b`` with learned ``s`` and ``b`` (eq. 3 and 4).

    Codes are unsigned; the zero point is the real number ``-b / s``. ``b`` starts at the smallest value
    seen (at most 0), ``s`` at the step size that fits the rest.
    """

    def make_level(self, bits: int) -> Level:
        return Level(bits, signed=False, scale=torch.ones(()), offset=torch.zeros(()))

    def initialize(self, x: Tensor) -> None:
        offset = x.min().clamp_max(0.0)
        levels = self.levels.values()
        scales = search_scales(x - offset, [(level.quant_min, level.quant_max) for level in levels])
        for level, scale in zip(levels, scales, strict=True):
            level.offset.copy_(offset)
            level.scale.copy_(scale)

    def reaches_below_zero(self, level: Level) -> bool:
        return bool(level.offset < 0)

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        scale = positive(level.scale.detach())
        return QParams(scale, -level.offset.detach() / scale, level.quant_min, level.quant_max)

    def fake_quantize(self, x: Tensor, level: Level, in_product: bool = False) -> Tensor:
        low, high = level.bounds()
        scale = positive(level.scale)
        zero_point = -level.offset / scale
        return fake_quantize(x, scale, zero_point, low, high, self.grad_scale(x, level), in_product)
