"""What all quantizers share: one tensor, several bit-widths, one of them active.

A quantizer holds one :class:`Level` for each bit-width it was built for. ``set_bits`` points
``active`` at one of them (or at none: float, the identity). The pointer is not a registered
submodule, so switching changes no keys, costs a dictionary look-up and, because a compiled graph
reads the level's tensors and no Python integers, needs no new graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, check_bits, int_range
from quantizable.functional import QParams, dequantize, quantize


class Level(nn.Module):
    """State of one bit-width: its integer range and, if the quantizer learns any, its parameters.

    Args:
        bits: bit-width, 1 to 16.
        signed: codes in ``[-2^(bits-1), 2^(bits-1) - 1]`` if True, else in ``[0, 2^bits - 1]``.
        parameters: tensors to be learned, by name.
    """

    range: Tensor  # int32 [2]: in integers, because an average over checkpoints must not blur them

    def __init__(self, bits: int, signed: bool, **parameters: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.binary = bits == 1  # what a compiled graph may ask, as `bits` would cost a graph per width
        self.register_buffer("range", torch.zeros(2, dtype=torch.int32))
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self.set_signed(signed)

    def set_signed(self, signed: bool) -> None:
        """Choose the signed or the unsigned integer range."""
        self.quant_min, self.quant_max = int_range(self.bits, signed)
        self.range.copy_(torch.tensor([self.quant_min, self.quant_max]))

    def bounds(self) -> tuple[int, int] | tuple[Tensor, Tensor]:
        """Smallest and largest code; as tensors while a graph is compiled, to be no part of it."""
        if torch.compiler.is_compiling():
            return self.range[0], self.range[1]
        return self.quant_min, self.quant_max

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "range" in state_dict and not self.range.is_meta:
            self.quant_min, self.quant_max = self.range.tolist()

    def extra_repr(self) -> str:
        return f"{self.bits} bits, codes {self.quant_min}..{self.quant_max}"


class Quantizer(nn.Module):
    """Fake-quantizes one tensor at the active bit-width; the identity when that is float.

    Subclasses give :meth:`qparams`; those with learned parameters also :meth:`initialise`. For all
    of them ``forward(x) == dequantize(codes(x), qparams(x))``: what training simulates is what
    deployment runs.

    Args:
        bits: the bit-widths to hold, each ``min_bits`` to 16; 32 is always there and is ignored.

    Raises:
        ValueError: a bit-width is out of range or not defined by the quantizer.
    """

    min_bits = 2
    signed = True
    active: Level | None

    def __init__(self, bits: Iterable[int]) -> None:
        super().__init__()
        widths = sorted({check_bits(b) for b in bits} - {FLOAT_BITS})
        if widths and widths[0] < self.min_bits:
            raise ValueError(
                f"{type(self).__name__} is not defined at {widths[0]} bit; its lowest bit-width is "
                f"{self.min_bits} (1 bit: choose dorefa or sat)"
            )
        self.levels = nn.ModuleDict({str(b): self.make_level(b) for b in widths})
        self.register_buffer("initialised", torch.tensor(self.starts_initialised()))
        self._ready = self.starts_initialised()
        self._observed: list[Tensor] | None = None
        object.__setattr__(self, "active", None)

    # -- what a subclass gives ---------------------------------------------------------------------

    def make_level(self, bits: int) -> Level:
        """The state of one bit-width."""
        return Level(bits, self.signed)

    def starts_initialised(self) -> bool:
        """True if no data is needed before first use."""
        return True

    def initialise(self, x: Tensor) -> None:
        """Set the parameters of every level from a sample ``x`` of the tensor (any shape)."""

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        """Scale, zero point and code range for ``x`` at ``bits`` (default: the active width)."""
        raise TypeError(f"{type(self).__name__} must define qparams")

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        """Integer codes (int32, shape of ``x``) at ``bits`` (default: the active width)."""
        return quantize(x, self.qparams(x, bits))

    def fake_quantize(self, x: Tensor, level: Level) -> Tensor:
        """Dequantized codes with straight-through gradients."""
        return dequantize(self.codes(x, level.bits), self.qparams(x, level.bits))

    # -- what everybody uses -----------------------------------------------------------------------

    @property
    def bits(self) -> int:
        """The active bit-width; 32 when the quantizer is the identity."""
        return FLOAT_BITS if self.active is None else self.active.bits

    @property
    def widths(self) -> list[int]:
        """The bit-widths that can be chosen, 32 last."""
        return [*map(int, self.levels), FLOAT_BITS]

    def level(self, bits: int | None = None) -> Level:
        """The state of one bit-width (default: the active one); ``ValueError`` if there is none."""
        if bits is None and self.active is not None:
            return self.active
        if str(bits) not in self.levels:
            wanted = "float (mode 32)" if bits in (None, FLOAT_BITS) else f"{bits} bits"
            raise ValueError(f"no integer codes at {wanted}; this quantizer has {self.widths[:-1]}")
        return self.levels[str(bits)]  # type: ignore[return-value]

    def set_bits(self, bits: int) -> None:
        """Make ``bits`` the active bit-width; ``ValueError`` if the quantizer was not built for it."""
        level = None if bits == FLOAT_BITS else self.level(bits)
        object.__setattr__(self, "active", level)  # not a submodule: see the top of this file

    def forward(self, x: Tensor) -> Tensor:
        if self._observed is not None:
            self._observe(x)
        if self.active is None:
            return x
        if not self._ready:
            self.start_calibration()
            self._observe(x)
            self.finish_calibration()
        return self.fake_quantize(x, self.active)

    @property
    def calibrating(self) -> bool:
        """True between ``start_calibration`` and ``finish_calibration``."""
        return self._observed is not None

    # -- initialisation from data ------------------------------------------------------------------

    def start_calibration(self) -> None:
        """From now on keep samples of what passes; parameters are set by ``finish_calibration``."""
        self._observed = []

    def finish_calibration(self) -> None:
        """Set the parameters from the samples kept; without any, they stay as they are."""
        observed, self._observed = self._observed, None
        if observed:
            self._finish(torch.cat(observed))

    def stop_calibration(self) -> None:
        """Forget the samples and change nothing."""
        self._observed = None

    def refit(self, weight: Tensor) -> None:
        """Start the parameters of a weight quantizer anew, from other float weights."""
        if self.levels and self.starts_initialised():
            self._finish(weight)

    def _observe(self, x: Tensor, keep: int = 16384) -> None:
        flat = x.detach().float().flatten()
        picked = torch.linspace(0, flat.numel() - 1, min(keep, flat.numel()), device=x.device).long()
        # the extremes decide the sign and the range, so they are always among the samples
        self._observed.append(torch.cat([flat[picked], torch.stack([flat.min(), flat.max()])]))  # type: ignore[union-attr]

    @torch.no_grad()
    def _finish(self, x: Tensor) -> None:
        self.initialise(x.detach().float())
        self.initialised.fill_(True)
        self._ready = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "initialised" in state_dict and not self.initialised.is_meta:
            self._ready = bool(self.initialised)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def search_scale(
    x: Tensor, quant_min: int, quant_max: int, axis: int | None = None, p: float = 2.4
) -> Tensor:
    """Step size that minimises the mean ``|x - fake_quantize(x)|^p``, found on a grid of 80 clips.

    Args:
        x: sample of the tensor, any shape.
        quant_min, quant_max: code range.
        axis: one step size for each index of this axis (shape ``[C, 1, ...]``), or None for one in all.
        p: norm, 2.4 as in EQ-Net (Xu et al., ICCV 2023, sec. 3.3).
    """
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = x.shape[axis]
        rows = x.movedim(axis, 0).flatten(1)
    else:
        rows = x.flatten()[None]
    top = rows.abs().amax(1, keepdim=True).clamp_min(1e-8) / max(quant_max, -quant_min)
    best = top.clone()
    least = torch.full_like(top, math.inf)
    for fraction in torch.linspace(0.05, 1.2, 80):
        scale = top * fraction
        error = (
            ((rows / scale).round_().clamp_(quant_min, quant_max) * scale - rows)
            .abs_()
            .pow_(p)
            .mean(1, keepdim=True)
        )
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best.reshape(shape) if axis is not None else best.reshape(())
