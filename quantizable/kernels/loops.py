"""The loops of ``loops.cpp`` on tensors. Each gives None where it does not fit, and torch runs then."""

from __future__ import annotations

from ctypes import CDLL

import torch
from torch import Tensor, nn

from quantizable.kernels.calls import HALF, lanes_of_torch, pointers, rows_as_torch
from quantizable.kernels.library import library
from quantizable.kernels.trial import same


def loops_for(x: Tensor) -> CDLL | None:
    """The library, if the loops can run over ``x``; None: torch's operations have to.

    Args:
        x: any shape, float32 or bfloat16, on the CPU; its numbers lie in memory one behind the other.

    Raises:
        ValueError: as :func:`quantizable.kernels.library.library`.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if type(x) not in (Tensor, nn.Parameter) or x.dtype not in HALF or not x.is_cpu or not x.numel():
        return None
    # who watches or replaces operations has to see torch's own
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    if x.is_neg() or not (x.is_contiguous() or is_channels_last(x)):
        return None
    return library(same)


def is_channels_last(x: Tensor) -> bool:
    """True for ``[N, C, H, W]`` and ``[N, C, D, H, W]`` that lie in memory with the channels innermost."""
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def alike(x: Tensor, *others: Tensor | None) -> bool:
    """True if the others have shape, type and order in memory of ``x``; None counts as alike.

    Args:
        x: any shape; :func:`loops_for` has the library for it.
        others: what a loop reads beside it, as a gradient.
    """
    return all(
        other is None
        or (
            other.shape == x.shape
            and other.dtype == x.dtype
            and other.stride() == x.stride()
            and type(other) in (Tensor, nn.Parameter)
            and not (other.is_neg() or other._is_zerotensor())
        )
        for other in others
    )


def rows_and_length(x: Tensor, *grids: Tensor | None) -> tuple[int, int] | None:
    """How many rows of ``x`` have a number of each grid to themselves, and the length of a row.

    Args:
        x: any shape, one behind the other in memory.
        grids: step sizes and zero points: one number for all of ``x``, or ``[C, 1, ...]`` for its C rows,
            with as many axes as ``x``. None stands for no such grid.

    Returns:
        None if the grids are no float32, or the numbers of a row do not lie together in memory.
    """
    rows = None
    for grid in grids:
        if grid is None:
            continue
        count = grid.numel()
        if grid.dtype != torch.float32 or not grid.is_contiguous() or rows not in (None, count):
            return None
        if count > 1 and not (
            grid.dim() == x.dim()
            and grid.shape[0] == count == x.shape[0]
            and x.stride(0) * count == x.numel()
        ):
            return None
        rows = count
    rows = rows or 1
    return rows, x.numel() // rows


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int | Tensor, high: int | Tensor
) -> Tensor | None:
    """Forward of ``functional.fake_quantize``.

    Args:
        x: any shape; the result has its shape, type and order in memory.
        scale: step size, float32, a scalar or one per row as ``[C, 1, ...]``; less than 1e-9 counts as 1e-9.
        zero_point: real code of the value 0, as ``scale``; None: 0.
        low, high: smallest and largest code; tensors, as of a compiled graph, are left to torch.

    Returns:
        None where no loop fits.
    """
    found = loops_for(x)
    rows = rows_and_length(x, scale, zero_point) if found and isinstance(low, int) else None
    if found is None or rows is None:
        return None
    out = torch.empty_like(x)
    found.fake_quantize(
        HALF[x.dtype],
        *pointers(x, out),
        *rows,
        *pointers(scale, zero_point),
        low,
        high,
        torch.get_num_threads(),
    )
    return out


def fused_relu(x: Tensor, in_place: bool, top: float, scale: Tensor, high: int) -> tuple[Tensor, Tensor]:
    """A ReLU and the fake quantization of what it gives, in one pass.

    Args:
        x: any shape; :func:`loops_for` has the library for it.
        in_place: whether ``x`` is to become what the ReLU gives.
        top: the largest value that the ReLU lets through, above 0.
        scale: step size, a float32 scalar; less than 1e-9 counts as 1e-9.
        high: largest code; the smallest is 0.

    Returns:
        What the ReLU gives, and that fake-quantized, each of shape, type and order of ``x``.
    """
    found = loops_for(x)
    assert found is not None
    relu, out = x if in_place else torch.empty_like(x), torch.empty_like(x)
    found.fused_relu(
        HALF[x.dtype],
        *pointers(x, relu, out),
        x.numel(),
        *pointers(scale),
        high,
        top,
        torch.get_num_threads(),
    )
    return relu, out


def gradients_of_input_and_scale(
    grad: Tensor,
    x: Tensor,
    out: Tensor | None,
    scale: Tensor,
    bounds: tuple[int | Tensor, int | Tensor],
    factor: float | Tensor,
) -> tuple[Tensor, Tensor] | None:
    """Backward of ``functional.fake_quantize`` in float32 without a zero point, from one pass.

    Args:
        grad, x, out, scale, bounds: as in :func:`fake_quantize_gradients`.
        factor: on the gradient of the scale.

    Returns:
        The gradients of ``x`` and of ``scale``; None where no loop fits, or none adds in torch's order.
    """
    found = loops_for(x) if x.dtype == torch.float32 and isinstance(factor, float) else None
    rows = rows_and_length(x, scale) if found and isinstance(bounds[0], int) else None
    if found is None or rows is None or not alike(x, grad, out):
        return None
    threads, grad_x, grad_scale = torch.get_num_threads(), torch.empty_like(x), torch.empty_like(scale)
    if not scale.dim() and lanes_of_torch(found).value:
        parts = torch.zeros(threads)
        found.fake_quantize_gradients_summed(
            *pointers(grad, x, out, grad_x, parts, grad_scale), x.numel(), *pointers(scale), *bounds, factor,
            threads,
        )  # fmt: skip
    elif rows[0] > 1 and out is not None and rows_as_torch(found).value:
        found.fake_quantize_gradients_of_rows(
            *pointers(grad, x, out, grad_x, grad_scale), *rows, *pointers(scale), *bounds, factor, threads
        )
    else:
        return None
    return grad_x, grad_scale


def fake_quantize_gradients(
    grad: Tensor,
    x: Tensor,
    out: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    bounds: tuple[int | Tensor, int | Tensor],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """Backward of ``functional.fake_quantize``: the gradient of ``x``, and what is summed for the others.

    Args:
        grad: gradient of the result, of its shape and type.
        x: the input, any shape.
        out: the result, or None if it has no share in the gradient of the scale.
        scale, zero_point: as in :func:`fake_quantize`.
        bounds: smallest and largest code.
        wanted: whether there is a gradient of the scale, and one of the zero point.

    Returns:
        The gradient of ``x``; for scale and zero point a tensor of the shape of ``x``, None if it is not
        wanted. None in place of all three where no loop fits.
    """
    found = loops_for(x)
    rows = rows_and_length(x, scale, zero_point) if found and isinstance(bounds[0], int) else None
    if found is None or rows is None or not alike(x, grad, out):
        return None
    low, high = map(float, bounds)
    by_code = bool(scale.dim())
    if not by_code:
        step, zero = scale.item(), 0.0 if zero_point is None else zero_point.item()
        low, high = (low - zero) * step, (high - zero) * step
    grad_x = torch.empty_like(x)
    share, zero_share = (torch.empty_like(x) if want else None for want in wanted)
    found.fake_quantize_gradients(
        HALF[x.dtype], *pointers(grad, x, out if wanted[0] else None, grad_x, share, zero_share), *rows,
        *(pointers(scale, zero_point) if by_code else (None, None)), low, high, torch.get_num_threads(),
    )  # fmt: skip
    return grad_x, share, zero_share
