"""Bit modes: how many bits the weights and the activations of a layer use.

A bit mode is written as an integer (``4``: 4-bit weights and 4-bit activations), as
``"w4a8"`` (4-bit weights, 8-bit activations) or as a :class:`BitMode`. ``32`` means float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Union

FLOAT_BITS = 32
MIN_BITS, MAX_BITS = 1, 16
ALLOWED = f"allowed are integers from 2 to {MAX_BITS} (1 where the quantizer defines it), 32 for float"

ModeLike = Union[int, str, "BitMode"]


def check_bits(bits: object, what: str = "bit-width") -> int:
    """Return ``bits`` as an int if it is a legal bit-width (1 to 16, or 32), else raise ``ValueError``."""
    if isinstance(bits, bool) or not isinstance(bits, Integral):  # numpy's integers are Integral
        raise ValueError(f"{what} {bits!r} is not an integer; {ALLOWED}")
    bits = int(bits)
    if bits != FLOAT_BITS and not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"{what} {bits} is out of range; {ALLOWED}")
    return bits


@dataclass(frozen=True, order=True)
class BitMode:
    """Bit-widths of weights and activations: each 1 to 16, or 32 for float.

    >>> BitMode.parse("w4a8"), BitMode.parse(32).is_float
    (BitMode(weight=4, activation=8), True)
    """

    weight: int
    activation: int

    def __post_init__(self) -> None:
        check_bits(self.weight, "weight bit-width")
        check_bits(self.activation, "activation bit-width")

    @classmethod
    def parse(cls, mode: ModeLike) -> BitMode:
        """Read ``4``, ``"4"``, ``"w4a8"`` or a :class:`BitMode`; anything else is a ``ValueError``."""
        if isinstance(mode, BitMode):
            return mode
        if isinstance(mode, str):
            if match := re.fullmatch(r"w(\d+)a(\d+)", mode.strip().lower()):
                return cls(int(match[1]), int(match[2]))
            if re.fullmatch(r"-?\d+", mode.strip()):
                mode = int(mode)
            else:
                raise ValueError(
                    f"bit mode {mode!r} is not understood; write an integer such as 4, "
                    f'or "w4a8" for 4-bit weights and 8-bit activations; {ALLOWED}'
                )
        bits = check_bits(mode)
        return cls(bits, bits)

    @property
    def is_float(self) -> bool:
        """True if neither weights nor activations are quantized."""
        return self.weight == FLOAT_BITS and self.activation == FLOAT_BITS

    @property
    def name(self) -> str:
        """``"4"`` for equal widths, else ``"w4a8"``; ``parse(name)`` gives the mode back."""
        return str(self.weight) if self.weight == self.activation else f"w{self.weight}a{self.activation}"

    def __str__(self) -> str:
        return self.name


FLOAT = BitMode(FLOAT_BITS, FLOAT_BITS)


def parse_modes(modes: Iterable[ModeLike] | ModeLike) -> list[BitMode]:
    """Read a list of modes and return them from the lowest to the highest.

    Raises:
        ValueError: the list is empty, names a mode twice or holds an illegal bit-width.
    """
    if isinstance(modes, str):
        modes = modes.split(",")
    elif not isinstance(modes, Iterable):
        modes = [modes]
    parsed = [BitMode.parse(mode) for mode in modes]
    if not parsed:
        raise ValueError(
            f"the list of bit modes is empty; give at least one, for example [2, 4, 8, 32]; {ALLOWED}"
        )
    if doubles := sorted({mode.name for mode in parsed if parsed.count(mode) > 1}):
        raise ValueError(f"bit mode {', '.join(doubles)} is listed more than once; name each mode once")
    return sorted(parsed)


def int_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of ``bits`` bits: two's complement if signed, else from 0.

    >>> int_range(4, signed=True), int_range(4, signed=False)
    ((-8, 7), (0, 15))
    """
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
