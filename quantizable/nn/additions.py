"""Residual additions on integer grids: the quantizers of their operands, and the class of their block."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.nn.added_forward import ADDITIONS, with_calls
from quantizable.nn.derived_classes import derived
from quantizable.nn.layers import QuantLayer
from quantizable.nn.operands import Operands
from quantizable.quantizers import LSQActivation, LSQAddend, Quantizer

INPUT, RANGE = "input", "_range"


class Additions(Operands):
    """The additions in the code of one block, numbered in the order of the code.

    The operands of number n are ``n_left`` and ``n_right``, where they have a quantizer; one that is clamped
    and not rounded ends in ``_range``. ``input`` is what the block is given: its layers and its shortcut read
    the same codes.

    Attributes:
        readers: names of the layers in the block that read an operand themselves, by the operand's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_module("operands", nn.ModuleDict())
        self.readers: dict[str, str] = {}

    def width(self, mode: BitMode) -> int:
        """Bits of the operands' codes in a mode; 32 where activations are float."""
        if mode.activation == FLOAT_BITS:
            return FLOAT_BITS
        grids = (operand.qparams(torch.zeros(1), mode.activation) for operand in self.operands.values())
        return max((grid.quant_max - grid.quant_min).bit_length() for grid in grids)

    def forward(self, number: int, left: Any, right: Any, in_place: bool = False) -> Any:
        """Their sum, each operand quantized first; plain where neither has a quantizer."""
        lefts, rights = (
            [
                self.operands[name]
                for name in (f"{number}_{side}", f"{number}_{side}{RANGE}")
                if name in self.operands
            ]
            for side in ("left", "right")
        )
        if not lefts and not rights:
            return operator.iadd(left, right) if in_place else left + right
        for quantize in lefts:
            left = quantize(left)
        for quantize in rights:
            right = quantize(right)
        return left + right


class ResidualBlock(nn.Module):
    """Put before the class of a module that adds activations: its forward, with the operands quantized.

    Attributes:
        added: the forward of that class with its additions as calls.
        input_name: of its first argument.
    """

    additions: Additions
    added: Callable[..., Any]
    input_name: str

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__bases__[0] is ResidualBlock:
            cls.added = with_calls(cls.__bases__[-1].forward)  # type: ignore[attr-defined]
            cls.input_name = [*inspect.signature(cls.added).parameters, ""][1]  # after self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = self.additions
        own.recomputing()
        # a tracer is shown the quantizers in every mode
        if own.passes_all() and not any(isinstance(x, fx.Proxy) for x in args):
            return super().forward(*args, **kwargs)
        if INPUT in own.operands:
            first = self.input_name
            x = own.operands[INPUT](args[0] if args else kwargs[first])
            args, kwargs = ((x, *args[1:]), kwargs) if args else (args, {**kwargs, first: x})
        return self.added(*args, **kwargs)


def make_block(module: nn.Module) -> None:
    """Turn a module into a :class:`ResidualBlock` without quantizers yet, in place.

    Raises:
        OSError: the source of its forward cannot be read.
    """
    module.__class__ = derived(ResidualBlock, type(module))
    module.add_module(ADDITIONS, Additions().train(module.training))


def add_operands(block: nn.Module, names: Iterable[str], make: Callable[[str], Quantizer]) -> None:
    """Give operands of a block's additions quantizers, in place; ``block`` may be of its float class."""
    if not isinstance(block, ResidualBlock):
        make_block(block)
    device = next((p.device for p in block.parameters()), None)
    held = block.get_submodule(f"{ADDITIONS}.operands")
    for name in names:
        held.add_module(name, make(name).to(device).train(block.training))


def share_grids(model: nn.Module) -> None:
    """Let operands share the grid of the layers that stand there now and read them, in place."""
    for block in [m for m in model.modules() if isinstance(m, ResidualBlock)]:
        for name, operand in block.additions.operands.items():
            if isinstance(operand, LSQAddend):
                reader = reading_quantizer(block, block.additions.readers.get(name, ""))
                if reader is not operand.reader:
                    operand.read_by(reader)


def reading_quantizer(block: nn.Module, name: str) -> LSQActivation | None:
    """The input quantizer of a layer, if it is LSQ's, whose codes start at zero."""
    layer = dict(block.named_modules()).get(name) if name else None
    found = layer.input_quantizer if isinstance(layer, QuantLayer) else None
    return found if isinstance(found, LSQActivation) else None


def restore(module: nn.Module) -> None:
    """Undo what this file did to one module, in place."""
    if isinstance(module, ResidualBlock):
        module.__class__ = type(module).__bases__[-1]
        del module._modules[ADDITIONS]
