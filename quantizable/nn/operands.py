"""Products and sums of two activations: what holds the quantizers of their operands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from torch import Tensor

from quantizable.bits import BitMode
from quantizable.nn.recomputation import Recomputable
from quantizable.quantizers import Quantizer


class Operands(Recomputable):
    """Switches the quantizers of operands that are activations.

    Attributes:
        operands: the quantizers, by the operand's name.
    """

    operands: Mapping[str, Quantizer]

    def resolve(self, mode: BitMode) -> BitMode:
        """The mode that it runs in when the network is asked for ``mode``: the same."""
        return mode

    def check(self, mode: BitMode) -> None:
        """``ValueError`` if the operands lack the activation's bit-width."""
        for operand in self.operands.values():
            operand.check(mode.activation)

    def check_widths(self, mode: BitMode) -> None:
        """``ValueError`` if :meth:`add_widths` cannot add the activation's bit-width."""
        for operand in self.operands.values():
            if isinstance(operand, Quantizer):
                operand.check_width(mode.activation)
            else:  # what was stored as integers has no more than these
                operand.check(mode.activation)

    def add_widths(self, mode: BitMode) -> None:
        """Hold the activation's bit-width."""
        for operand in self.operands.values():
            if isinstance(operand, Quantizer):
                operand.add_width(mode.activation)

    def set_bits(self, mode: BitMode) -> None:
        """All operands are activations, so the activation's bit-width counts."""
        for operand in self.operands.values():
            operand.set_bits(mode.activation)

    @property
    def bits(self) -> BitMode:
        """Its mode; both parts are the activations' bit-width."""
        bits = next(iter(self.operands.values())).bits
        return BitMode(bits, bits)

    def passes_all(self) -> bool:
        """True if all operands pass as they are just now: mode 32, and no calibration."""
        return all(
            isinstance(operand, Quantizer) and operand.active is None and not operand.calibrating
            for operand in self.operands.values()
        )


class QuantOperands(Operands):
    """Those of products of two activations."""


class FunctionalProducts(QuantOperands):
    """The products of two activations in the code of one module, numbered in the order of their calls.

    Called for each product, so that hooks see it as a layer's. The operands of number n are ``n_left`` and
    ``n_right``.
    """

    def forward(self, left: Tensor, right: Tensor, number: int, product: Callable[..., Tensor]) -> Tensor:
        """``product`` of both, quantized."""
        return product(self.operands[f"{number}_left"](left), self.operands[f"{number}_right"](right))

    def warn_of_new(self, kind: str) -> None:
        """Say once that code of a class makes a product that calibration did not see, which runs in float."""
        if not vars(self).get("warned_of_new"):
            self.warned_of_new = True
            warnings.warn(
                f"{kind} multiplies two activations where calibration saw no such product, and does "
                "so in float; calibrate with inputs for which its code takes the same way",
                stacklevel=2,
            )
