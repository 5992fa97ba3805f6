"""A ReLU and the fake quantization of what it gives, in one pass over memory.

The ReLU has to know who reads it (``quantizable.nn.fused_relu``). There is a note for what it gives, and the
quantizer that reads it takes from there what the ReLU has quantized for it. Whoever else reads it sees what a
ReLU gives. All numbers and gradients are those of the two one after the other.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from quantizable.functional import fake_quantize_gradients, hardtanh_backward
from quantizable.kernels import loops
from quantizable.quantizers.level import Level


@dataclass
class Behind:
    """The fake quantization behind a ReLU.

    Attributes:
        level: unsigned, with one step size for the whole tensor.
        grad_scale: factor on the gradient of the step size.
        in_product: see ``functional.fake_quantize``; not known before the quantizer runs.
    """

    level: Level
    grad_scale: float | Tensor
    in_product: bool = False


@dataclass
class Readers:
    """Who reads what a ReLU gives.

    Attributes:
        first: the quantizer that reads it first, as passes without gradients have shown; None: not known.
        several: True if the ReLU is used in several places, which different quantizers read.
    """

    first: weakref.ref[nn.Module] | None = None
    several: bool = False

    def __reduce__(
        self,
    ) -> tuple[type[Readers], tuple[()]]:  # a copy, or what a file holds, has other readers
        return Readers, ()


class Note:
    """What a tensor that a ReLU gave says of itself.

    Attributes:
        readers: who reads the ReLU.
        is_seen: True if a quantizer has read this tensor.
        behind: the quantization that was done at once; None: none was.
        out: its result, until the quantizer takes it.
        version: of the tensor when it was made; a later one was changed in place.
    """

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        self.is_seen = False
        self.behind: Behind | None = None
        self.out: Tensor | None = None
        self.version = 0


NOTES = WeakTensorKeyDictionary()
"""Of tensors that ReLUs gave, as long as they live. No attributes: a tensor with some is saved with them."""


def note_reader(x: Tensor, quantizer: nn.Module) -> None:
    """If a ReLU gave ``x``, remember that ``quantizer`` reads it, if it is the first to do so."""
    note = NOTES.get(x)
    if note is None or note.is_seen:
        return
    note.is_seen = True
    known = note.readers.first and note.readers.first()
    note.readers.several |= known not in (None, quantizer)
    note.readers.first = weakref.ref(quantizer)


def done_already(x: Tensor, level: Level, in_product: bool) -> Tensor | None:
    """``x`` fake-quantized at ``level`` by the ReLU that gave it; None if it was not."""
    note = NOTES.get(x)
    if note is None or note.behind is None or note.out is None:
        return None
    if note.behind.level is not level or note.version != x._version or not torch.is_grad_enabled():
        return None
    out, note.out = note.out, None  # once: it is one node of the graph
    note.behind.in_product = in_product
    return out


def fused_relu(x: Tensor, in_place: bool, top: float, behind: Behind, readers: Readers) -> Tensor:
    """``clamp(x, 0, top)``, with a note that has it fake-quantized.

    Args:
        x: any shape; ``loops_for`` has the loops for it.
        in_place: whether ``x`` itself becomes the result.
        top: largest value that passes, above 0.
        behind: the quantization.
        readers: for the note.
    """
    relu, out = _FusedReLU.apply(x, behind.level.scale, in_place, top, behind)
    note = Note(readers)
    note.behind, note.out, note.version = behind, out, relu._version
    NOTES[relu] = note
    return relu


class _FusedReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, in_place: bool, top: float, behind: Behind
    ) -> tuple[Tensor, Tensor]:
        high = behind.level.quant_max
        relu, out = loops.fused_relu(x, in_place, top, scale, high)
        if in_place:
            ctx.mark_dirty(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(relu, out, scale)
        ctx.top, ctx.behind, ctx.high = top, behind, high
        return relu, out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        more, grad = grads
        relu, out, scale = ctx.saved_tensors
        if grad is None:  # nobody took what was quantized
            grad_x = None if more is None else hardtanh_backward(more, relu, 0, ctx.top)
            return grad_x, None, None, None, None
        behind = ctx.behind
        # codes from 0 on let a gradient pass only where the ReLU does, but for its upper end
        top = ctx.top if more is not None or ctx.high * scale.item() > ctx.top else inf
        grad_x, grad_scale, _ = fake_quantize_gradients(
            grad, relu, None if behind.in_product else out, scale, None, (0, ctx.high),
            (ctx.needs_input_grad[1], False), behind.grad_scale, more=more, top=top,
        )  # fmt: skip
        return grad_x, grad_scale, None, None, None
