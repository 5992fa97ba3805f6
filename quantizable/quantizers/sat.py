"""SAT weights: DoReFa's normalization, three roundings, and a rescale that keeps the variance.

Jin, Yang, Liao: "Towards Efficient Training for Neural Network Quantization" (scale-adjusted
training), 2019, arXiv:1912.10207; roundings of AdaBits, Jin et al., CVPR 2020, arXiv:1912.09666.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantizable.quantizers.base import Level
from quantizable.quantizers.dorefa import DoReFaWeight

ROUNDINGS = ("original", "modified", "centered")


class SATWeight(DoReFaWeight):
    """``w_q = c v`` with ``std(w_q) = 1 / sqrt(fan_out)``; ``v`` from ``u = tanh_unit(w)`` by a rounding.

    ==========  =============================  ==============================================
    original    ``v = 2 round(u n)/n - 1``     ``n = 2^k - 1``; codes of different k do not nest
    modified    ``v = 2 q/2^k - 1``            ``q = min(floor(u 2^k), n)``: nested, mean below 0
    centered    ``v = 2 (q + 1/2)/2^k - 1``    the same ``q``: nested and zero-mean
    ==========  =============================  ==============================================

    Args:
        weight: the float weight, for its fan-out (``shape[0]`` times the kernel's size).
        bits: bit-widths, 1 to 16.
        axis: must be None.
        rounding: one of the three.
    """

    binary_gradient_skips_tanh = False

    def __init__(
        self,
        weight: Tensor,
        bits: Iterable[int],
        axis: int | None = None,
        rounding: str = "centered",
    ) -> None:
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding {rounding!r} is unknown; choose from {', '.join(ROUNDINGS)}")
        self.rounding = rounding
        self.fan_out = weight.numel() // weight.shape[1]
        super().__init__(weight, bits, axis)

    def unit_steps(self, level: Level) -> tuple[int | Tensor, bool]:
        steps, floor = super().unit_steps(level)
        return (steps, floor) if self.rounding == "original" else (steps + 1, True)

    def grid(self, x: Tensor, level: Level, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        high = torch.as_tensor(level.bounds()[1], dtype=torch.float32, device=x.device)
        step = 2 / high if self.rounding == "original" else 2 / (high + 1)
        zero_point = (high + 1) / 2 if self.rounding == "modified" else high / 2
        with torch.no_grad():
            codes = self.unit_codes(x, level)[1] if codes is None else codes
            spread = (
                codes.std(correction=min(1, codes.numel() - 1)).clamp_min(1e-6) * step
            )  # the zero point does not change the spread
        return step / (self.fan_out**0.5 * spread), zero_point
