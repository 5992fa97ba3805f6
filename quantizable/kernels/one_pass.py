"""A formula as one node of the graph, its values and its gradients from loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Loops(Protocol):
    """A formula in loops: tensors of any shape that lie in memory one behind the other, and scalars."""

    @property
    def values(self) -> Callable[..., tuple[Tensor, ...]]:
        """The result, of the first input's shape and type, and what else the gradients need."""
        ...

    @property
    def gradients(self) -> Callable[..., tuple[Tensor | None, ...] | None]:
        """One for each input, of its shape, from the result's, the inputs and what ``values`` added.

        None in place of all: no loop fits.
        """
        ...


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loops: Loops, operations: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        out, *more = loops.values(*inputs)
        ctx.save_for_backward(*inputs, *more)
        ctx.loops, ctx.operations, ctx.count = loops, operations, len(inputs)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        # the gradient of a gradient needs a graph
        found = None if torch.is_grad_enabled() else ctx.loops.gradients(*grads, *saved)
        if found is not None:
            return None, None, *found
        inputs, needed = saved[: ctx.count], ctx.needs_input_grad[2:]
        with torch.enable_grad():
            out = ctx.operations(*inputs)
        asked: list[Tensor] = [x for x, is_needed in zip(inputs, needed, strict=True) if is_needed]
        got = iter(torch.autograd.grad(out, asked, grads[0], create_graph=torch.is_grad_enabled()))
        return None, None, *(next(got) if is_needed else None for is_needed in needed)


def one_pass(loops: Loops, operations: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``operations(*inputs)``, by ``loops`` that give the same numbers and gradients.

    Args:
        loops: the formula in loops; they fit the inputs.
        operations: the formula in torch's operations, for gradients that no loop gives: of gradients, or of
            a result whose gradient lies in memory in another order.
        inputs: tensors that the formula is differentiated by; the first may have any shape.

    Returns:
        A tensor of the first input's shape, type and order in memory.
    """
    return _OnePass.apply(loops, operations, *inputs)
