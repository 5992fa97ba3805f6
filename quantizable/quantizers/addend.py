"""LSQ on an operand of an addition: fine codes in every mode, with a step size for each.

Integer-only inference adds 8-bit codes, however few bits the layers have (Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, appendix A.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantizable.bits import FLOAT_BITS
from quantizable.functional import positive
from quantizable.quantizers.level import Level
from quantizable.quantizers.lsq import LSQActivation


class LSQAddend(LSQActivation):
    """LSQ with codes of ``width`` bits at every activation width of the network, or more where that has more.

    A layer may read the same tensor. Where it does so on as many bits, its grid serves here, too: the codes
    are written once. The zero point is 0, so that engines can fuse the addition into a convolution.

    Args:
        bits: the activation widths of the network's modes, 1 to 16; each has a step size of its own.
        width: bits of the codes, 2 to 16.
        reader: the quantizer by which a layer reads the tensor; None: there is none.

    Attributes:
        bits: the activation width that it was switched to; its codes have ``active.bits``.
    """

    min_bits = 1  # its codes have more
    reader: LSQActivation | None
    asked: int

    def __init__(self, bits: Iterable[int], width: int, reader: LSQActivation | None = None) -> None:
        self.width = width
        object.__setattr__(self, "asked", FLOAT_BITS)
        object.__setattr__(self, "reader", reader)  # of a layer, which registers it
        super().__init__(b for b in bits if not self.shares(b))

    def make_level(self, bits: int) -> Level:
        return Level(max(bits, self.width), signed=False, scale=torch.ones(()))

    def shares(self, bits: int) -> bool:
        """True if the layer's grid serves at an activation width."""
        return self.reader is not None and bits >= self.width and str(bits) in self.reader.levels

    def read_by(self, reader: LSQActivation | None) -> None:
        """Share the grid of another reader from now on; what that lacks waits for data."""
        held = self.widths[:-1]
        object.__setattr__(self, "reader", reader)
        for bits in held:
            self.add_width(bits)

    @property
    def bits(self) -> int:
        return FLOAT_BITS if self.active is None else self.asked

    @property
    def widths(self) -> list[int]:
        shared = [int(b) for b in self.reader.levels if self.shares(int(b))] if self.reader else []
        return [*sorted({*map(int, self.levels), *shared}), FLOAT_BITS]

    def level(self, bits: int | None = None) -> Level:
        if bits is not None and self.shares(bits):
            assert self.reader is not None
            return self.reader.level(bits)
        return super().level(bits)

    def set_bits(self, bits: int) -> None:
        super().set_bits(bits)
        object.__setattr__(self, "asked", bits)

    def add_width(self, bits: int, weight: Tensor | None = None) -> None:
        if not self.shares(bits):
            super().add_width(bits)

    def forward(self, x: Tensor, **options: bool) -> Tensor:
        if self.calibrating or self.active is None or not self.shares(self.asked):
            return super().forward(x, **options)
        assert self.reader is not None  # which the layer calibrates, from the same values
        # not as a call: what hooks on the reader see is the layer's input
        return x if self.reader.calibrating else self.reader.forward(x, **options)


class Unrounded:
    """A quantizer that clamps to the range of its codes and leaves the rounding to the grid of the sum."""


class LSQRange(Unrounded, LSQAddend):
    """The operand that a convolution has just computed: clamped to the range of ``width`` bits, not rounded.

    An integer kernel adds the other operand's codes to its int32 sums and rounds once, to the grid of what
    reads the sum: codes of this operand would never be stored.
    """

    def fake_quantize(self, x: Tensor, level: Level, in_product: bool = False) -> Tensor:
        low, high = level.bounds()
        scaled = level.scale * self.grad_scale(x, level)
        # the value of the step size, with the gradient of LSQ's
        scale = positive(level.scale.detach()) + (scaled - scaled.detach())
        return x.clamp((low * scale).to(x.dtype), (high * scale).to(x.dtype))
