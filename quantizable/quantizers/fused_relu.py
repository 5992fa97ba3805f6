"""A ReLU and the fake quantization of what it gives, in one pass over memory.

The ReLU has to know who reads it (``quantizable.nn.fused_relu``). There is a note for what it gives, and the
quantizer that reads it takes from there what the ReLU has quantized for it. Whoever else reads it sees what a
ReLU gives, and so does who asks for its gradient. All numbers are those of the two one after the other.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from quantizable.functional import DoneAtOnce, hardtanh_backward
from quantizable.kernels import loops
from quantizable.quantizers.level import Level

threshold_backward = torch.ops.aten.threshold_backward


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
    """What is known of a tensor that a ReLU gave.

    Attributes:
        readers: who reads the ReLU.
        is_seen: True if a quantizer has read this tensor.
        level: that it was quantized at; None: it was not.
        done: the result, until the quantizer takes it.
        version: of the tensor when it was made; a later one was changed in place.
    """

    def __init__(self, readers: Readers) -> None:
        self.readers = readers
        self.is_seen = False
        self.level: Level | None = None
        self.done: DoneAtOnce | None = None
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


def done_at_once(x: Tensor, level: Level) -> DoneAtOnce | None:
    """The fake quantization of ``x`` at ``level`` by the ReLU that gave it; None if there is none."""
    note = NOTES.get(x)
    if note is None or note.level is not level or note.version != x._version or not torch.is_grad_enabled():
        return None
    done, note.done = note.done, None  # once: its gradient is looked for as that of one node
    return done


def fused_relu(x: Tensor, in_place: bool, top: float, level: Level, readers: Readers) -> Tensor:
    """``clamp(x, 0, top)``, with a note that has it fake-quantized.

    Args:
        x: any shape; ``loops_for`` has the loops for it.
        in_place: whether ``x`` itself becomes the result.
        top: largest value that passes, above 0.
        level: unsigned, with one step size for the whole tensor.
        readers: for the note.
    """
    relu, done = _FusedReLU.apply(x, in_place, top, level)
    note = Note(readers)
    note.level, note.done, note.version = level, done, relu._version
    NOTES[relu] = note
    return relu


class _FusedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool, top: float, level: Level) -> tuple[Tensor, DoneAtOnce]:
        relu, out = loops.fused_relu(x, in_place, top, level.scale, level.quant_max)
        done = DoneAtOnce(out)
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(relu)
        # a gradient that came through codes from 0 on is 0 where the ReLU's is, but for the ReLU's upper end
        masked = top == inf or level.quant_max * level.scale.item() <= top
        ctx.top, ctx.done = top, done if masked else None
        return relu, done

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, done = grads[0], ctx.done
        if done is not None:
            through_codes, done.grad_x = done.grad_x, None
            if grad is through_codes and grad._version == done.version:  # nobody else read the ReLU
                return grad, None, None, None
        (relu,) = ctx.saved_tensors
        grad_x = (
            threshold_backward(grad, relu, 0) if ctx.top == inf else hardtanh_backward(grad, relu, 0, ctx.top)
        )
        return grad_x, None, None, None
