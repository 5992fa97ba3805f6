"""Pure tensor maths of quantization. Everything above is built on these few functions.

The affine map is ``value = (code - zero_point) * scale`` with integer codes in
``[quant_min, quant_max]``. Codes are computed in float32 whatever the type of the input, so that
the same codes come out under autocast, in training and in deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantizable.kernels import loops

hardtanh_backward = torch.ops.aten.hardtanh_backward

SMALLEST_SCALE = 1e-9  # a learned step size that an optimizer pushed to zero or below stops here
SMALLEST_HALF = 2.0**-24  # there, of float16, in which 1e-9 is 0


def positive(scale: Tensor) -> Tensor:
    """A step size, at least the smallest that there is in its type."""
    return scale.clamp_min(SMALLEST_HALF if scale.dtype == torch.float16 else SMALLEST_SCALE)


class QParams(NamedTuple):
    """How the integer codes of a tensor map to values.

    Attributes:
        scale: step size, positive float32; a scalar, or one per channel, broadcastable to the tensor.
        zero_point: the code of the value 0, a scalar or the shape of ``scale``. An integer for most
            quantizers, a half-integer for those without a zero level (DoReFa), any real for LSQ+.
        quant_min: smallest code.
        quant_max: largest code.
    """

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded`` in the forward pass, the gradient of ``x`` in the backward pass.

    The straight-through estimator (STE) of Bengio et al. 2013 (arXiv:1308.3432). Both of one shape.
    """
    return _StraightThrough.apply(x, rounded.detach())


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Integer codes (int32, shape of ``x``) of the values ``x``: round half to even, then saturate."""
    scale, zero_point, quant_min, quant_max = qparams
    return (x.float() / scale + zero_point).round_().clamp_(quant_min, quant_max).to(torch.int32)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Values (float32, shape of ``codes``) that the integer codes stand for."""
    return (codes.float() - qparams.zero_point) * qparams.scale


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """The sum of ``x`` over the elements that share one of ``like``, float32."""
    if x.dtype == torch.float16:  # ends at 65504, which a sum over the activations of a batch passes
        x = x.float()
    return (x.sum_to_size(like.shape) if like.dim() else x.sum()).float()


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


def scale_gradient(x: Tensor, factor: float | Tensor) -> Tensor:
    """``x`` itself; its gradient is multiplied by ``factor`` (LSQ sec. 2.2)."""
    return _ScaleGradient.apply(x, torch.as_tensor(factor))


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """``x / scale + zero_point`` in a new float32 tensor, to be changed in place."""
    codes = x / scale if x.dtype == torch.float32 else x.float().div_(scale)
    return codes if zero_point is None else codes.add_(zero_point)


def _clamp_gradient(
    grad: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int | Tensor, high: int | Tensor
) -> Tensor:
    """``grad`` where the code of ``x`` is inside the range, else 0.

    Three ways to the same numbers. Compiled, a comparison costs nothing. In eager CPU code ``where``
    takes ten times as long as ``hardtanh_backward``, which compares and selects in one vectorized pass;
    one scale for the whole tensor saves it the division, unless reading it makes the host wait for a GPU.
    """
    if isinstance(low, Tensor):
        codes = _codes(x, scale, zero_point)
        return torch.where((codes > low) & (codes < high), grad, 0)
    if scale.dim() or not x.is_cpu or x.dtype == torch.float16:  # float16 may not hold the thresholds
        return hardtanh_backward(grad, _codes(x, scale, zero_point), low, high).to(grad.dtype)
    step, zero = scale.item(), 0.0 if zero_point is None else zero_point.item()
    return hardtanh_backward(grad, x, (low - zero) * step, (high - zero) * step)


def _values(
    x: Tensor, step: Tensor, zero_point: Tensor | None, low: int | Tensor, high: int | Tensor
) -> Tensor:
    """Dequantized codes of ``x``, of its type."""
    codes = _codes(x, step, zero_point).round_()
    if x.dtype == torch.bfloat16 and zero_point is None and not isinstance(high, Tensor) and high <= 256:
        codes = codes.to(x.dtype)  # exact within the range, and half the memory for what follows
    codes = codes.clamp_(low, high)  # type: ignore[arg-type]
    if zero_point is not None:
        codes -= zero_point
    # a compiled result that shares another's memory gets zero gradients from torch 2.11
    out = codes * step if torch.compiler.is_compiling() else codes.mul_(step)
    return out if out.dtype == x.dtype else out.to(x.dtype)


def _shares(
    grad: Tensor,
    x: Tensor,
    out: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    bounds: tuple[int | Tensor, int | Tensor],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``kernels.loops.fake_quantize_gradients`` in torch's operations, where no loop fits."""
    grad_x = _clamp_gradient(grad, x, scale, zero_point, *bounds)
    share = None
    if wanted[0]:
        share = grad_x * x if out is None else (grad * out).addcmul_(grad_x, x, value=-1)
    return grad_x, share, grad_x - grad if wanted[1] else None


@dataclass
class DoneAtOnce:
    """The fake quantization of what a ReLU gives, which the ReLU did in its own pass.

    Attributes:
        out: the result, of shape and type of what the ReLU gives, until it is part of a graph: the graph
            holds this object, and would hold itself.
        grad_x: the gradient that came through the codes, of that shape, until the ReLU has seen it.
        version: its version then; a later one was changed in place.
    """

    out: Tensor | None
    grad_x: Tensor | None = None
    version: int = 0


class _FakeQuantize(torch.autograd.Function):
    """Quantize and dequantize as one node; saves only its input and its output.

    Both are kept alive anyway (by the layer before, and by the matrix product behind), so that the
    node adds no memory. The gradients follow from them: with dx the gradient that passes the
    clamp, d scale = sum(g*out - dx*x) / scale, which is LSQ's eq. 3 summed over the tensor.
    What it costs is passes over memory, therefore the work in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: int | Tensor,
        high: int | Tensor,
        grad_scale: float | Tensor,
        in_product: bool,
        done: DoneAtOnce | None,
    ) -> Tensor:
        if done is None:
            out = loops.fake_quantize(x, scale, zero_point, low, high)
        else:
            out, done.out = done.out, None
        if out is None:
            out = _values(x, positive(scale.detach()), zero_point, low, high)
        ctx.done = done
        ctx.save_for_backward(x, None if in_product else out, scale, zero_point)
        ctx.constants = low, high, grad_scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, out, scale, zero_point = ctx.saved_tensors
        low, high, factor = ctx.constants
        wanted = ctx.needs_input_grad[1], zero_point is not None and ctx.needs_input_grad[2]
        rest = None, None, None, None, None
        has_loops = not torch.is_grad_enabled()  # the gradient of a gradient needs a graph
        found = None
        if has_loops and wanted == (True, False) and zero_point is None:
            found = loops.gradients_of_input_and_scale(grads[0], x, out, scale, (low, high), factor)
        if found is not None:
            _remember(ctx.done, found[0])
            return *found, None, *rest
        scale = positive(scale)  # once more, for gradients of gradients
        asked = grads[0], x, out, scale, zero_point, (low, high), wanted
        shares = loops.fake_quantize_gradients(*asked) if has_loops else None
        grad_x, share, zero_share = shares or _shares(*asked)
        grad_scale = grad_zero = None
        if share is not None:
            grad_scale = _sum_to(share, scale)
            grad_scale = (-grad_scale if out is None else grad_scale) / scale * factor
        if zero_share is not None and zero_point is not None:
            grad_zero = _sum_to(zero_share, zero_point) * scale * factor
        if has_loops:
            _remember(ctx.done, grad_x)
        return grad_x, grad_scale, grad_zero, *rest


def _remember(done: DoneAtOnce | None, grad_x: Tensor) -> None:
    """Tell the ReLU in front, if it quantized, which gradient came through the codes."""
    if done is not None:
        done.grad_x, done.version = grad_x, grad_x._version


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: int | Tensor,
    high: int | Tensor,
    grad_scale: float | Tensor = 1.0,
    in_product: bool = False,
    *,
    done: DoneAtOnce | None = None,
) -> Tensor:
    """``dequantize(quantize(x))`` with straight-through gradients, in one autograd node.

    Args:
        x: any floating tensor; the result has its type and shape, the arithmetic is float32.
        scale: step size, scalar or broadcastable to ``x``; values below 1e-9 count as 1e-9.
        zero_point: real code of the value 0, or None for 0.
        low, high: smallest and largest code; as integer scalar tensors the same compiled graph
            serves every bit-width.
        grad_scale: factor on the gradients of ``scale`` and ``zero_point`` (LSQ sec. 2.2).
        in_product: leave out the share of the gradient of ``scale`` that :func:`weight_in_product` gives.
        done: the result, if a ReLU has made it already.

    Gradients: of ``x``, 1 where ``low < x / scale + zero_point < high``, else 0; of ``scale``,
    LSQ eq. 3 (Esser et al. 2020, arXiv:1902.08153); of ``zero_point``, ``-scale`` where clipped
    (LSQ+ eq. 6, Bhalgat et al. 2020, arXiv:2004.09576, with offset = -scale * zero_point).
    """
    return _FakeQuantize.apply(x, scale, zero_point, low, high, grad_scale, in_product, done)


class _WeightInProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, grad_scale: float | Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.factor = grad_scale
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, scale = ctx.saved_tensors
        scale = positive(scale)
        return grads[0], _sum_to(grads[0] * weight, scale) / scale * ctx.factor, None


def weight_in_product(weight: Tensor, scale: Tensor, grad_scale: float | Tensor = 1.0) -> Tensor:
    """``weight`` itself, with the gradient that a step size gets through the product with its activations.

    ``out = fake_quantize(x, scale, ..., in_product=True)`` and the weight enter a product that is linear in
    each (any convolution, any linear layer). With g and gw their gradients, ``sum(g * out) == sum(gw *
    weight)``: the first term of the gradient of ``scale`` (LSQ eq. 3, summed), from the small tensor
    instead of the large one.

    Args:
        weight: what the activations are multiplied with, any shape.
        scale: scalar step size of the activations.
        grad_scale: as in :func:`fake_quantize`.
    """
    return _WeightInProduct.apply(weight, scale, grad_scale)
