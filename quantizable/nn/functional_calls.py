"""Products that a module's own code makes by functions, as ``F.linear(x, self.qkv.weight)`` or ``q @ k``.

A layer that is read past its forward, and a product of two activations, would stay float in every mode.
While such a module runs at quantized bits, a ``TorchFunctionMode`` sees the functions that its code calls
and hands them to the layer whose weight they read, or to the module's :class:`FunctionalProducts`. Code of
modules inside is left alone. In mode 32 nothing is watched: the module runs as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantizable.nn.layers import QuantLayer, all_float
from quantizable.nn.operands import FunctionalProducts
from quantizable.nn.transposed import is_transposed
from quantizable.nn.watching import watching
from quantizable.quantizers import Quantizer

MATMULS = {
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm,
    torch.mm, torch.Tensor.mm,
}  # fmt: skip
BATCHED_SUMS = {torch.baddbmm, torch.Tensor.baddbmm}
SUMS = {torch.addmm, torch.Tensor.addmm}
EINSUMS = {torch.einsum, torch.functional.einsum}
ATTENTION = F.scaled_dot_product_attention
Multiply = Callable[[Tensor, Tensor, Callable[..., Tensor]], Tensor]


class FunctionalCalls(TorchFunctionMode):
    """Sees the functions that a module's own code calls.

    Args:
        module: whose code.
        read: layers whose weight it reads.
        multiply: called with (left, right, product) for each product of two operands that are no weight of
            such a layer; gives the product.
    """

    def __init__(self, module: nn.Module, read: Mapping[int, QuantLayer], multiply: Multiply) -> None:
        super().__init__()
        self.read, self.multiply = dict(read), multiply
        self.transposed: list[Tensor] = []  # weights of these, as long as their ids are looked up
        self.thread = get_ident()
        self.depth = 0  # of calls of modules inside, in this thread
        self.inside = {
            str(number): part
            for number, part in enumerate(module.modules())
            if part is not module and not isinstance(part, Quantizer | nn.ModuleList | nn.ModuleDict)
        }

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the length of a ``with`` block."""
        with ExitStack() as stack:
            stack.enter_context(watching(self.inside, self._enter, before=True))
            stack.enter_context(watching(self.inside, self._leave))
            stack.enter_context(self)
            yield

    def _enter(self, *_: Any) -> None:
        if get_ident() == self.thread:
            self.depth += 1

    def _leave(self, *_: Any) -> None:
        if get_ident() == self.thread:
            self.depth -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.depth:
            return func(*args, **kwargs)
        if self.read:
            read = (*args, *kwargs.values())
            if func is F.linear:  # whose weight counts: its input may be a layer's weight, too
                read = args[1:2] or (kwargs.get("weight"),)
            layer = next((self.read[id(x)] for x in read if id(x) in self.read), None)
            if layer is not None:
                result = read_past(layer, func, args, kwargs)
                if args and is_transposed(func, args[0], result):
                    self.transposed.append(result)
                    self.read[id(result)] = layer
                return result
        return products(func, args, kwargs, self.multiply)


def is_activation(x: Tensor) -> bool:
    """True for what is neither a parameter nor a view of one, nor integers."""
    owner = x if x._base is None else x._base
    return x.is_floating_point() and x.dim() > 1 and not isinstance(owner, nn.Parameter)


def products(func: Any, args: Any, kwargs: Any, multiply: Multiply) -> Any:
    """What ``func`` gives, with each of its products of two operands made by ``multiply``."""
    if func in MATMULS and len(args) == 2 and not kwargs:
        return multiply(args[0], args[1], func)
    if func in BATCHED_SUMS and len(args) == 3:
        return multiply(args[1], args[2], lambda left, right: func(args[0], left, right, **kwargs))
    if func in EINSUMS and len(args) == 3 and all(isinstance(x, Tensor) for x in args[1:]):
        return multiply(args[1], args[2], lambda left, right: func(args[0], left, right))
    if func is ATTENTION:
        return attention(multiply, *args, **kwargs)
    return func(*args, **kwargs)


def attention(
    multiply: Multiply,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention`` as two products, by its reference in torch's documentation.

    Args:
        multiply: makes the products.
        query: ``[..., heads, L, d]``.
        key, value: ``[..., heads, S, d]``; with ``enable_gqa`` of a divisor of these heads.
        attn_mask: ``[..., L, S]``, True where seen, or numbers to add.
        dropout_p, is_causal, scale: as there.
        enable_gqa: as there.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = query.size(-1) ** -0.5 if scale is None else scale
    scores = multiply(query, key.transpose(-2, -1), torch.matmul) * factor  # [..., L, S]
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    if attn_mask is not None:  # a token that sees nothing gets nothing
        weights = weights.masked_fill(scores.isneginf().all(-1, keepdim=True), 0.0)
    return multiply(F.dropout(weights, dropout_p), value, torch.matmul)


def read_past(layer: QuantLayer, func: Any, args: Any, kwargs: Any) -> Any:
    """What ``func`` of an input and the weight of ``layer`` gives, with both quantized."""
    if func is F.linear:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        return layer(args[0] if args else kwargs["input"], bias)
    if func in MATMULS and len(args) == 2 and _is_turned(args[1], layer.weight):
        return layer(args[0], None)
    if func in SUMS and len(args) == 3 and not kwargs and _is_turned(args[2], layer.weight):
        return layer(args[1], args[0])
    return func(*args, **kwargs)


def _is_turned(x: Any, weight: Tensor) -> bool:
    """True if ``x``, a weight or its transposed view, is the view."""
    return x is not weight and isinstance(x, Tensor) and x.data_ptr() == weight.data_ptr()


def plain_product(left: Tensor, right: Tensor, product: Callable[..., Tensor]) -> Tensor:
    """The product as it is."""
    return product(left, right)


class CallsLayers(nn.Module):
    """Put before the class of a module whose code reads weights past layers, or multiplies activations.

    Attributes:
        read_names: names of the layers inside that it reads.
        original_calls: the class that it had.
        products: quantizers of its products of two activations, if these are quantized.
    """

    read_names: tuple[str, ...]
    original_calls: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layers = [self.get_submodule(name) for name in self.read_names]
        read = [m for m in layers if isinstance(m, QuantLayer)]
        own = self._modules.get("products")
        if isinstance(own, FunctionalProducts):
            own.recomputing()
            own = None if own.passes_all() else own
        if own is None and all(map(all_float, read)):
            return super().forward(*args, **kwargs)
        # layers in float, too: products are numbered, and one with a weight is none of them
        return self._watched({id(m.weight): m for m in read}, own, args, kwargs)

    @torch.compiler.disable
    def _watched(self, read: Mapping[int, QuantLayer], own: Any, args: Any, kwargs: Any) -> Any:
        number = -1

        def multiply(left: Tensor, right: Tensor, product: Callable[..., Tensor]) -> Tensor:
            nonlocal number
            number += 1
            if own is None or f"{number}_left" not in own.operands:
                if own is not None and is_activation(left) and is_activation(right):
                    own.warn_of_new(self.original_calls.__name__)
                return product(left, right)
            result: Tensor = own(left, right, number, product)
            return result

        with FunctionalCalls(self, read, plain_product if own is None else multiply).watching():
            return super().forward(*args, **kwargs)
