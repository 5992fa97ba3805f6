"""The state of one bit-width of a quantizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import int_range


class Level(nn.Module):
    """State of one bit-width: its integer range and, if the quantizer learns any, its parameters.

    Of the range only the sign is saved. The range follows from it and is no buffer, because an average over
    checkpoints (EMA) blurs numbers: torch's own turns the integer 31 into 30. A bool stays a bool.

    Args:
        bits: bit-width, 1 to 16.
        signed: codes in ``[-2^(bits-1), 2^(bits-1) - 1]`` if True, else in ``[0, 2^bits - 1]``.
        parameters: tensors to be learned, by name.

    What is set from data carries a saved ``initialised`` (see :meth:`await_data`): a checkpoint may hold some
    bit-widths and lack others.

    Attributes:
        quant_min, quant_max: smallest and largest code.
        range: the same two as an int32 tensor of shape [2], for compiled graphs.
        ready: False as long as its parameters wait for data; a plain bool, which costs no look at a GPU.
        scale, offset, alpha: the learned parameters, each only where the quantizer has it.
        correction: what is added to the tensor before it is quantized, of the tensor's shape and unit; None:
            nothing. Reconstruction learns it, to turn single roundings (AdaQuant, Hubara et al., ICML 2021).
    """

    signed: Tensor
    initialised: Tensor
    scale: Tensor
    offset: Tensor
    alpha: Tensor
    correction: nn.Parameter | None

    def __init__(self, bits: int, signed: bool, **parameters: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.binary = bits == 1  # what a compiled graph may ask, as `bits` would cost a graph per width
        self.register_buffer("signed", torch.tensor(signed))
        self.ready = True
        self.range = torch.zeros(2, dtype=torch.int32)
        self._read_at = (0, -1)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self.register_parameter("correction", None)
        self.set_signed(signed)

    def await_data(self) -> None:
        """From now on say, in checkpoints too, whether the parameters were set from data; not yet."""
        self.register_buffer("initialised", torch.zeros_like(self.signed))
        self.ready = False

    def set_ready(self, ready: bool) -> None:
        """Say whether the parameters were set."""
        self.ready = ready
        if "initialised" in self._buffers:
            self.initialised.fill_(ready)

    def adopt(self, other: Level) -> None:
        """Take sign and parameters of ``other``, a level of the same kind.

        A graph that awaits its backward pass may hold the parameters: it is not told.
        """
        self.correction = None if other.correction is None else copy.deepcopy(other.correction)
        for name, parameter in self.named_parameters():
            parameter.data.copy_(other.get_parameter(name).data)
        self.set_signed(bool(other.signed))
        self.set_ready(True)

    def set_signed(self, signed: bool) -> None:
        """Choose the signed or the unsigned integer range."""
        self.signed.fill_(signed)
        self.quant_min, self.quant_max = int_range(self.bits, signed)
        if self.range.device != self.signed.device:  # after load_state_dict(assign=True) on a meta model
            self.range = torch.zeros(2, dtype=torch.int32, device=self.signed.device)
        self.range.copy_(torch.tensor([self.quant_min, self.quant_max]))
        self._read_at = self._sign_version()

    def _sign_version(self) -> tuple[int, int]:
        """Changes when something writes the saved sign in place, as an average over weights does, and in a
        copy."""
        signed: Any = self._buffers["signed"]  # an attribute costs more
        return id(signed), -1 if signed.is_inference() else signed._version

    def is_written(self) -> bool:
        """True if something else wrote the sign since it was read."""
        return self._read_at != self._sign_version()

    def reread(self) -> None:
        """Take range and readiness from the saved values again, after something else wrote them."""
        if self.signed.is_meta:
            return
        self.set_signed(bool(self.signed))
        if "initialised" in self._buffers:
            self.ready = bool(self.initialised)

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
        held = state_dict.get(prefix + "correction")
        if held is not None and self.correction is None:
            self.correction = nn.Parameter(torch.zeros_like(held, device=self.signed.device))
        elif held is None and prefix + "signed" in state_dict:
            self.correction = None
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.reread()

    def extra_repr(self) -> str:
        return f"{self.bits} bits, codes {self.quant_min}..{self.quant_max}"
