"""What all quantizers share: one tensor, several bit-widths, one of them active.

A quantizer holds one :class:`Level` for each bit-width it was built for. ``set_bits`` points
``active`` at one of them (or at none: float, the identity). The pointer is not a registered
submodule, so switching changes no keys, costs a dictionary look-up and, because a compiled graph
reads the level's tensors and no Python integers, needs no new graph.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, check_bits
from quantizable.functional import QParams, dequantize, quantize
from quantizable.quantizers.level import Level


class Quantizer(nn.Module):
    """Fake-quantizes one tensor at the active bit-width; the identity when that is float.

    Subclasses give :meth:`qparams`; those with learned parameters also :meth:`initialize`. For all
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
        self.add_module("levels", nn.ModuleDict({str(b): self._new_level(b) for b in widths}))
        self.register_buffer("initialised", torch.tensor(self.starts_initialized()))
        self._observed: list[Tensor] | None = None
        self.warned: list[bool] = []  # of use without calibration; the quantizers of a network share one
        self.unreached = False  # True: calibration ran, and no data came by
        # what the first training batch set is not settled for some more: it may have been no training at all
        self._unsettled: set[int] = set()
        self._unsure = 0  # training batches to go until it is
        object.__setattr__(self, "active", None)

    def _new_level(self, bits: int) -> Level:
        level = self.make_level(bits)
        if not self.starts_initialized():
            level.await_data()
        return level

    # -- what a subclass gives ---------------------------------------------------------------------

    def make_level(self, bits: int) -> Level:
        """The state of one bit-width."""
        return Level(bits, self.signed)

    def starts_initialized(self) -> bool:
        """True if no data is needed before first use."""
        return True

    def initialize(self, x: Tensor) -> None:
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
        if not self.active.ready:
            return self._uncalibrated(x, **options)
        # first what a graph knows: the counter is no part of it
        if not torch.compiler.is_compiling() and self._unsure and self.training:
            self._watch_sign(x)
        return self.fake_quantize(x, self.active, **options)

    @property
    def calibrating(self) -> bool:
        """True between ``start_calibration`` and ``finish_calibration``."""
        return self._observed is not None

    # -- initialization from data ------------------------------------------------------------------

    def start_calibration(self) -> None:
        """From now on pass everything unchanged and keep samples of it, until ``finish_calibration``."""
        self._observed = []

    def finish_calibration(self, widths: Iterable[int] | None = None) -> bool:
        """Set the parameters from the samples kept; False, and nothing changed, if there are none.

        Args:
            widths: the bit-widths to set; None: all.
        """
        observed, self._observed = self._observed, None
        self.unreached = not observed
        if not observed:
            return False
        x = torch.cat(observed)
        x = sample(x[x.isfinite()])
        # zeros say nothing of the size: a range of 1 holds them, and what may come later
        self.fit(x if x.any() else torch.ones_like(x), widths)
        return True

    def stop_calibration(self) -> None:
        """Forget the samples and change nothing."""
        self._observed = None

    def refit(self, weight: Tensor, widths: Iterable[int] | None = None) -> None:
        """Start the parameters of a weight quantizer anew, at all widths or some, from float weights."""
        if self.levels and self.starts_initialized():
            self.fit(weight, widths)

    @torch.no_grad()
    def fit(self, x: Tensor, widths: Iterable[int] | None = None) -> None:
        """Set the parameters of all bit-widths, or of ``widths`` alone, from a sample ``x`` of the tensor."""
        self._unsure = 0
        if widths is None:
            self.initialize(x.detach().float())
            for level in self.levels.values():
                level.set_ready(True)
        else:
            widths = [*widths]
            fitted = self._fitted_copy(x, widths)
            for bits in widths:
                self.level(bits).adopt(fitted.level(bits))
        self.initialised.fill_(True)

    def is_set(self, bits: int) -> bool:
        """True if the parameters at ``bits`` need no data, or were set from some."""
        level = self.level(bits)
        level.reread()  # an average over checkpoints is filled in place
        return level.ready

    def lacking(self) -> list[int]:
        """The bit-widths whose parameters still wait for data, or come from a single batch alone."""
        unsettled = self._unsettled if self._unsure else ()
        return [int(bits) for bits in self.levels if not self.is_set(int(bits)) or int(bits) in unsettled]

    def add_width(self, bits: int, weight: Tensor | None = None) -> None:
        """Hold one more bit-width; a weight's starts from ``weight``, an activation's waits for data.

        Raises:
            ValueError: the quantizer is not defined at ``bits``.
        """
        self.check_width(bits)
        if bits != FLOAT_BITS and str(bits) not in self.levels:
            held = {**dict(self.levels), str(bits): self._new_level(bits).to(self.initialised.device)}
            self.add_module("levels", nn.ModuleDict({b: held[b] for b in sorted(held, key=int)}))
            if weight is not None:
                self.refit(weight.detach(), [bits])

    def check_width(self, bits: int) -> None:
        """``ValueError`` if :meth:`add_width` cannot add ``bits``."""
        if check_bits(bits) < self.min_bits:
            raise ValueError(f"{type(self).__name__} is not defined at {bits} bit")

    @torch.compiler.disable
    def _uncalibrated(self, x: Tensor, **options: bool) -> Tensor:
        """``x`` quantized before there are parameters for it.

        In evaluation mode they are those that fit ``x``, and are not kept: it may be anything. In training
        mode, with gradients, the first batch sets them. One that says nothing of the range (a constant, NaN)
        passes as it is.
        """
        assert self.active is not None
        # an average over checkpoints is made before the first batch and filled in place afterwards
        for level in self.levels.values():
            level.reread()
        if x.is_meta:
            return x
        if not self.active.ready:
            values, world = sample(x), dist.get_world_size() if dist.is_initialized() else 1
            telling = values.isfinite().all() & (values[-2] < values[-1])
            trains = self.training and torch.is_grad_enabled()
            if trains and world > 1:
                dist.broadcast(telling, src=0)  # all processes decide as the first does
            if not telling:
                return x
            self._warn()
            if not trains:
                fitted = self._fitted_copy(values, [self.bits])
                assert fitted.active is not None
                return fitted.fake_quantize(x, fitted.active, **options)
            blank = self.lacking()
            self.fit(values, blank)
            self._unsettled, self._unsure = {*blank}, 8  # as many batches as `calibrate` reads
            if world > 1:  # each saw other data
                for tensor in (*self.parameters(), *self.buffers()):
                    dist.broadcast(tensor.data, src=0)
                for level in self.levels.values():
                    level.reread()
        return self.fake_quantize(x, self.active, **options)

    def _warn(self) -> None:
        if not self.warned:
            self.warned.append(True)
            warnings.warn(
                f"used at {self.bits} bits before calibration: in evaluation mode step sizes come from each "
                "batch and are not kept, in training mode from the first batch; call calibrate(loader) first",
                stacklevel=2,
            )

    def _fitted_copy(self, x: Tensor, widths: Iterable[int]) -> Quantizer:
        """A copy of these widths alone, which takes no longer than it must, set from ``x``."""
        fitted = copy.deepcopy(self)
        fitted.add_module("levels", nn.ModuleDict({str(bits): fitted.level(bits) for bits in widths}))
        fitted.fit(x)
        return fitted

    def _watch_sign(self, x: Tensor) -> None:
        """The first batch may have had no negative values where the next ones have."""
        self._unsure -= 1
        if dist.is_initialized() and dist.get_world_size() > 1:
            return  # the processes would part
        blind = [int(bits) for bits, level in self.levels.items() if not self.reaches_below_zero(level)]
        if blind and x.detach().min() < 0:  # not in the graph: activation checkpointing would miss it later
            left = self._unsure
            self.fit(sample(x), blind)
            self._unsure = left

    def reaches_below_zero(self, level: Level) -> bool:
        """True if the range of ``level`` holds negative values."""
        return bool(level.signed)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        name = prefix + "initialised"
        if name in state_dict:
            self._unsure = 0
            for bits, level in self.levels.items():
                own = f"{prefix}levels.{bits}."
                if "initialised" in level._buffers:
                    if own + "signed" not in state_dict:  # the checkpoint lacks this width
                        level.set_ready(False)
                    elif own + "initialised" not in state_dict:  # older ones say it once for all widths
                        state_dict[own + "initialised"] = state_dict[name].clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def sample(x: Tensor, keep: int = 16384) -> Tensor:
    """Up to ``keep + 2`` values of ``x``, evenly spaced, its extremes among them (float32 [n])."""
    x = x.detach()
    kept = min(keep, x.numel())
    # in integers: a float32 ramp runs over the end of a tensor with more than 2^24 elements
    picked = torch.arange(kept, device=x.device) * (x.numel() - 1) // max(kept - 1, 1)
    # by all axes: to flatten a tensor that is not contiguous would copy it
    values = x[torch.unravel_index(picked, x.shape)] if x.dim() else x.expand(kept)
    # the extremes decide the sign and the range; in the order of memory they take a tenth of the time
    strides = x.stride()
    ordered = x.permute(sorted(range(x.dim()), key=lambda axis: -strides[axis]))
    return torch.cat([values, torch.stack(ordered.aminmax())]).float()
