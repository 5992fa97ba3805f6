"""The loops of ``loops.cpp`` on tensors. Each gives None where it does not fit, and torch runs then."""

from __future__ import annotations

from ctypes import CDLL, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.kernels.library import library

HALF = {torch.float32: 0, torch.bfloat16: 1}  # what the loops call `half`
SIGNATURES = {  # p: pointer, n: count, f: float, i: int
    "fake_quantize": "ippnnppffi",
    "fake_quantize_gradients": "ippppppnnppffi",
    "fake_quantize_gradients_summed": "pppppnffi",
    "clip": "ippnfffi",
    "clip_gradients": "ipppppnffi",
    "unit_codes": "ppnffifi",
    "unit_share": "ipppnffffi",
    "unit_gradients": "ipppnfffffi",
    "nested": "ippnnppfffffi",
    "nested_gradients": "ipppppnnppfffffii",
    "least_error": "ppppnnpnpnffi",
}
TYPES: dict[str, Any] = {"p": c_void_p, "n": c_int64, "f": c_float, "i": c_int}


def typed(found: CDLL) -> CDLL:
    """The library with the types of its functions."""
    for name, signature in SIGNATURES.items():
        getattr(found, name).argtypes = [TYPES[letter] for letter in signature]
        getattr(found, name).restype = None
    found.clip_gradients.restype = c_int
    found.unit_share.restype = c_int64
    return found


def same(found: CDLL) -> bool:
    """True if the library rounds, divides and multiplies as torch does here: a trial of each."""
    typed(found)
    if not any(_tried(found, fused) for fused in (1, 0)):
        return False
    lanes = (count for count in (16, 8, 4) if _sums(found, count))
    lanes_of_torch(found).value = next(lanes, 0)
    return True


def lanes_of_torch(found: CDLL) -> c_int:
    """How many numbers the vectors of torch's sums have; 0: the library does not know torch's order."""
    return c_int.in_dll(found, "lanes_of_torch")


def _sums(found: CDLL, lanes: int) -> bool:
    """True if the library adds numbers in torch's order, which decides the last bits of a sum."""
    lanes_of_torch(found).value = lanes
    values = torch.rand(200003, generator=torch.Generator().manual_seed(0)) - 0.3
    ones = torch.ones_like(values)
    for count in (1, 5, 63, 64, 1000, 4099, 32767, 32768, 65537, 200003):
        part, parts = values[:count], torch.zeros(torch.get_num_threads())
        grad_x = torch.empty_like(part)
        found.fake_quantize_gradients_summed(
            *pointers(ones, part, None, grad_x, parts), count, -1, 1, len(parts)
        )
        if not torch.equal(parts.sum(), part.sum()):
            return False
    return True


def _tried(found: CDLL, fused: int) -> bool:
    """A trial, with product and sum rounded once or twice."""
    c_int.in_dll(found, "one_rounding").value = fused
    step = torch.tensor(0.3)
    low, high = -4 * step.item(), 3 * step.item()
    for dtype, half in HALF.items():
        x = torch.cat([torch.linspace(-3, 3, 997), torch.tensor([0.0, -0.0, 0.15, 0.45, 1e30])])
        x, grad = x.to(dtype), x.flip(0).to(dtype)
        out = ((x.float() / step).round_().clamp_(-4, 3) * step).to(dtype)
        passed = torch.ops.aten.hardtanh_backward(grad, x, low, high)
        share = (grad * out).addcmul_(passed, x, value=-1)
        ours = [torch.empty_like(x) for _ in range(3)]
        found.fake_quantize(half, *pointers(x, ours[0]), 1, x.numel(), *pointers(step, None), -4, 3, 1)
        found.fake_quantize_gradients(
            half, *pointers(grad, x, out, ours[1], ours[2], None), 1, x.numel(), None, None, low, high, 1
        )
        for mine, torchs in zip(ours, (out, passed, share), strict=True):
            if not torch.equal(mine, torchs):
                return False
    return True


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """The address of each tensor's numbers, None for None; keep the tensors until the loop is over."""
    return [None if x is None else x.data_ptr() for x in tensors]


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
        scale: step size, float32, a scalar or one per row as ``[C, 1, ...]``; at least 1e-9.
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

    Of a single scale in float32 it is the sum itself, where the library adds in torch's order.

    Args:
        grad: gradient of the result, of its shape and type.
        x: the input, any shape.
        out: the result, or None if it has no share in the gradient of the scale.
        scale, zero_point: as in :func:`fake_quantize`.
        bounds: smallest and largest code.
        wanted: whether there is a gradient of the scale, and one of the zero point.

    Returns:
        The gradient of ``x``; for scale and zero point a tensor of the shape of ``x`` (or the sum, a scalar),
        None if it is not wanted. None in place of all three where no loop fits.
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
    if wanted == (True, False) and not by_code and x.dtype == torch.float32 and lanes_of_torch(found).value:
        parts = torch.zeros(torch.get_num_threads())
        found.fake_quantize_gradients_summed(
            *pointers(grad, x, out, grad_x, parts), x.numel(), low, high, len(parts)
        )
        return grad_x, parts.sum(), None
    share, zero_share = (torch.empty_like(x) if want else None for want in wanted)
    found.fake_quantize_gradients(
        HALF[x.dtype], *pointers(grad, x, out if wanted[0] else None, grad_x, share, zero_share), *rows,
        *(pointers(scale, zero_point) if by_code else (None, None)), low, high, torch.get_num_threads(),
    )  # fmt: skip
    return grad_x, share, zero_share
