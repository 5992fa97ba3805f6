"""Real multipliers as an integer and a shift, for processors without floating point.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, arXiv:1712.05877, sec. 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

FRACTION_BITS = 20  # values between layers are int32 in units of 2^-20, so below 2048 in size
MULTIPLIER_BITS = 31


def fixed_multiplier(real: Tensor) -> tuple[Tensor, Tensor]:
    """Integers ``m`` and ``shift`` (int64, shape of ``real``) with ``real = m * 2^-shift`` to 31 bits.

    Args:
        real: float64, below 2^30 in size; 0 gives m = 0.
    """
    mantissa, exponent = torch.frexp(real.double())
    m = torch.round(mantissa * (1 << MULTIPLIER_BITS)).to(torch.int64)
    shift = MULTIPLIER_BITS - exponent.to(torch.int64)
    # what a shift of 62 bits leaves of a 62-bit product is nothing
    return torch.where(shift > 62, 0, m), shift.clamp(1, 62)


def rescale(integers: Tensor, m: Tensor, shift: Tensor) -> Tensor:
    """``round(integers * m * 2^-shift)`` in int64, halves upwards.

    Args:
        integers: int64 that fit int32.
        m, shift: from :func:`fixed_multiplier`, broadcastable to ``integers``.
    """
    half = torch.ones_like(shift) << (shift - 1)
    return (integers * m + half) >> shift


def to_fixed(values: Tensor) -> Tensor:
    """Real values as int64 in units of ``2^-FRACTION_BITS``."""
    return torch.round(values.double() * (1 << FRACTION_BITS)).to(torch.int64)


def from_fixed(integers: Tensor) -> Tensor:
    """The float64 values of fixed-point integers, exact."""
    return integers.double() / (1 << FRACTION_BITS)
