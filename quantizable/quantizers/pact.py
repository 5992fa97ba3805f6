"""PACT: activations clipped at a learned level.

Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
arXiv:1805.06085, eq. 1 to 3. The clipping level is kept per bit-width (switchable clipping level,
AdaBits, Jin et al., CVPR 2020, arXiv:1912.09666, sec. 3.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizable.functional import SMALLEST_SCALE, positive
from quantizable.quantizers.base import Level
from quantizable.quantizers.dorefa import DoReFaActivation, choose_sign


class PACTActivation(DoReFaActivation):
    """``y = clip(x, 0, alpha)``, ``y_q = round(y n / alpha) alpha / n`` with ``n = 2^k - 1``.

    The gradient of ``alpha`` is 1 where ``x >= alpha``, else 0 (eq. 3). ``alpha`` starts at the 99.9th
    percentile of the data. Signed data: ``[-alpha, alpha]``, as for :class:`DoReFaActivation`.
    """

    def make_level(self, bits: int) -> Level:
        return Level(bits, signed=False, alpha=torch.ones(()))

    def initialize(self, x: Tensor) -> None:
        choose_sign(self, x)
        top = torch.quantile(x.abs().flatten(), 0.999).clamp_min(SMALLEST_SCALE)
        for level in self.levels.values():
            level.alpha.copy_(top)

    def clip_at(self, level: Level) -> Tensor:
        return positive(level.alpha)
