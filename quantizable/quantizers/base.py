"""What all quantizers share: one tensor, several bit-widths, one of them active.

A quantizer holds one :class:`Level` for each bit-width it was built for. ``set_bits`` points
``active`` at one of them (or at none: float, the identity). The pointer is not a registered
submodule, so switching changes no keys, costs a dictionary look-up and, because a compiled graph
reads the level's tensors and no Python integers, needs no new graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, check_bits, int_range
from quantizable.functional import QParams, dequantize, quantize


class Level(nn.Module):
    """State of one bit-width: its integer range and, if the quantizer learns any, its parameters.

    Only the sign is saved. The range follows from it and is no buffer, because an average over
    checkpoints (EMA) blurs numbers: torch's own turns the integer 31 into 30. A bool stays a bool.

    Args:
        bits: bit-width, 1 to 16.
        signed: codes in ``[-2^(bits-1), 2^(bits-1) - 1]`` if True, else in ``[0, 2^bits - 1]``.
        parameters: tensors to be learned, by name.

    Attributes:
        quant_min, quant_max: smallest and largest code.
        range: the same two as an int32 tensor of shape [2], for compiled graphs.
        scale, offset, alpha: the learned parameters, each only where the quantizer has it.
    """

    signed: Tensor
    scale: Tensor
    offset: Tensor
    alpha: Tensor

    def __init__(self, bits: int, signed: bool, **parameters: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.binary = bits == 1  # what a compiled graph may ask, as `bits` would cost a graph per width
        self.register_buffer("signed", torch.tensor(signed))
        self.range = torch.zeros(2, dtype=torch.int32)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self.set_signed(signed)

    def set_signed(self, signed: bool) -> None:
        """Choose the signed or the unsigned integer range."""
        self.signed.fill_(signed)
        self.quant_min, self.quant_max = int_range(self.bits, signed)
        if self.range.device != self.signed.device:  # after load_state_dict(assign=True) on a meta model
            self.range = torch.zeros(2, dtype=torch.int32, device=self.signed.device)
        self.range.copy_(torch.tensor([self.quant_min, self.quant_max]))

    def reread(self) -> None:
        """Take the range from the saved sign again, after something else wrote it."""
        if not self.signed.is_meta:
            self.set_signed(bool(self.signed))

    def bounds(self) -> tuple[int, int] | tuple[Tensor, Tensor]:
        """Smallest and largest code; as tensors while a graph is compiled, to be no part of it."""
        if torch.compiler.is_compiling():
            return self.range[0], self.range[1]
        return self.quant_min, self.quant_max

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Level:
        super()._apply(fn, recurse)
        self.range = fn(self.range)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.reread()

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
    levels: Mapping[str, Level]
    initialised: Tensor

    def __init__(self, bits: Iterable[int]) -> None:
        super().__init__()
        widths = sorted({check_bits(b) for b in bits} - {FLOAT_BITS})
        if widths and widths[0] < self.min_bits:
            raise ValueError(
                f"{type(self).__name__} is not defined at {widths[0]} bit; its lowest bit-width is "
                f"{self.min_bits} (1 bit: choose dorefa or sat)"
            )
        self.add_module("levels", nn.ModuleDict({str(b): self.make_level(b) for b in widths}))
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
        return self.levels[str(bits)]

    def check(self, bits: int) -> None:
        """``ValueError`` if the quantizer was not built for ``bits``."""
        if bits != FLOAT_BITS:
            self.level(bits)

    def set_bits(self, bits: int) -> None:
        """Make ``bits`` the active bit-width; ``ValueError`` if the quantizer was not built for it."""
        level = None if bits == FLOAT_BITS else self.level(bits)
        object.__setattr__(self, "active", level)  # not a submodule: see the top of this file

    def product(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``x``, quantized, and ``weight``, for a product of these two; the first must go nowhere else.

        A quantizer may compute gradients from their product that cost more without it.
        """
        return self(x), weight

    def forward(self, x: Tensor, **options: bool) -> Tensor:
        if not x.numel():  # an empty batch has nothing to quantize and says nothing of the range
            return x
        if self._observed is not None:
            self._observed.append(sample(x))
            return x
        if self.active is None:
            return x
        if not self._ready:
            self._first_use(x)
        return self.fake_quantize(x, self.active, **options)

    @property
    def calibrating(self) -> bool:
        """True between ``start_calibration`` and ``finish_calibration``."""
        return self._observed is not None

    # -- initialisation from data ------------------------------------------------------------------

    def start_calibration(self) -> None:
        """From now on pass everything unchanged and keep samples of it, until ``finish_calibration``."""
        self._observed = []

    def finish_calibration(self) -> bool:
        """Set the parameters from the samples kept; False, and nothing changed, if there are none."""
        observed, self._observed = self._observed, None
        if observed:
            self._fit(torch.cat(observed))
        return bool(observed)

    def stop_calibration(self) -> None:
        """Forget the samples and change nothing."""
        self._observed = None

    def refit(self, weight: Tensor) -> None:
        """Start the parameters of a weight quantizer anew, from other float weights."""
        if self.levels and self.starts_initialised():
            self._fit(weight)

    def _first_use(self, x: Tensor) -> None:
        # an average over checkpoints is made before the first batch and filled in place afterwards
        if self.initialised:
            self._ready = True
            for level in self.levels.values():
                level.reread()
        else:
            self._fit(sample(x))

    @torch.no_grad()
    def _fit(self, x: Tensor) -> None:
        self.initialise(x.detach().float())
        self.initialised.fill_(True)
        self._ready = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if prefix + "initialised" in state_dict and not self.initialised.is_meta:
            self._ready = bool(self.initialised)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def sample(x: Tensor, keep: int = 16384) -> Tensor:
    """Up to ``keep + 2`` values of ``x``, evenly spaced, its extremes among them (float32 [n])."""
    flat = x.detach().float().flatten()
    kept = min(keep, flat.numel())
    # in integers: a float32 ramp runs over the end of a tensor with more than 2^24 elements
    picked = torch.arange(kept, device=x.device) * (flat.numel() - 1) // max(kept - 1, 1)
    # the extremes decide the sign and the range
    return torch.cat([flat[picked], torch.stack([flat.min(), flat.max()])])
