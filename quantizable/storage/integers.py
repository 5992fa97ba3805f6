"""The integers of a layer: what remains of its quantizers once training is over.

Every published quantizer comes down to ``value = (code - zero_point) * scale``. Here that is written with
integers alone: weights without any zero point (``value = integer * scale``), inputs with an integer zero
point and, for LSQ+, a real remainder that the layer adds as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.bits import FLOAT_BITS
from quantizable.quantizers import Quantizer


@dataclass(frozen=True)
class IntegerWeight:
    """``value = integers * scale``.

    Attributes:
        integers: int32, the weight's shape. Two's complement of ``bits`` bits; where the quantizer has no
            zero level (DoReFa, SAT) the odd numbers of ``bits + 1`` bits.
        scale: float32, a scalar or broadcastable to the weight (one per output channel).
        bits: bit-width, 1 to 16.
    """

    integers: Tensor
    scale: Tensor
    bits: int

    def value(self) -> Tensor:
        """The weight that the fake-quant network multiplies with, float32."""
        return self.integers * self.scale


@dataclass(frozen=True)
class IntegerInput:
    """``value = (code - zero_point - remainder) * scale``, ``code`` in ``[low, high]``.

    Attributes:
        scale: step size, float32 scalar.
        zero_point: integer nearest to the real zero point that an unsigned byte can hold.
        remainder: real zero point less ``zero_point``; 0 for all quantizers but LSQ+.
        low, high: smallest and largest code that the quantizer gives out.
        bits: bit-width, 1 to 16.
    """

    scale: Tensor
    zero_point: int
    remainder: float
    low: int
    high: int
    bits: int

    @property
    def signed(self) -> bool:
        """True if codes are negative."""
        return self.low < 0

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of ``x`` (same type and shape): round half to even, then saturate."""
        real_zero_point = self.zero_point + self.remainder
        return (x / self.scale + real_zero_point).round().clamp(self.low, self.high)


def integer_weight(quantizer: Quantizer, weight: Tensor, bits: int) -> IntegerWeight:
    """The integers of a weight at ``bits`` bits.

    Raises:
        ValueError: the zero point is no multiple of one half, so that no such integers exist.
    """
    codes, qparams = quantizer.codes(weight, bits), quantizer.qparams(weight, bits)
    doubled = 2 * qparams.zero_point.double()
    if not torch.equal(doubled, doubled.round()):
        raise ValueError(f"weights with zero point {qparams.zero_point} have no integer form")
    if bool((doubled % 2 == 0).all()):  # an integer zero point: subtract it
        return IntegerWeight(codes - qparams.zero_point.to(torch.int32), qparams.scale.detach(), bits)
    return IntegerWeight(2 * codes - doubled.to(torch.int32), qparams.scale.detach() / 2, bits)


def reached_range(quantizer: Quantizer, bits: int) -> tuple[int, int]:
    """Smallest and largest code that a quantizer gives out; DoReFa's signed codes leave out the lowest."""
    far = torch.tensor([-1e30, 1e30], device=quantizer.initialised.device)
    low, high = quantizer.codes(far, bits).tolist()
    return low, high


def integer_input(quantizer: Quantizer, bits: int) -> IntegerInput:
    """Grid of a layer's input at ``bits`` bits (per-tensor)."""
    grid = quantizer.qparams(torch.zeros(1, device=quantizer.initialised.device), bits)
    real_zero_point = float(grid.zero_point)
    zero_point = min(max(round(real_zero_point), 0), 255)
    low, high = reached_range(quantizer, bits)
    wide = max(high.bit_length() + (low < 0), (-low - 1).bit_length() + 1 if low < 0 else 0)
    return IntegerInput(
        grid.scale.detach().reshape(()), zero_point, real_zero_point - zero_point, low, high,
        max(bits, wide),  # an operand of an addition has more than its mode
    )  # fmt: skip


def is_quantized(quantizer: Quantizer) -> bool:
    """True unless the quantizer is at mode 32."""
    return quantizer.bits != FLOAT_BITS
