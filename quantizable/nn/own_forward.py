"""Layers whose forward is their own but multiplies by their weight as it stands, and parametrized ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from quantizable.nn.layers import QuantLayer, all_float
from quantizable.nn.transposed import is_transposed

# places of the input and of the weight among the arguments
OPERANDS: dict[Any, tuple[int, int]] = {
    F.linear: (0, 1), F.conv1d: (0, 1), F.conv2d: (0, 1), F.conv3d: (0, 1),
    F.conv_transpose1d: (0, 1), F.conv_transpose2d: (0, 1), F.conv_transpose3d: (0, 1),
    torch.matmul: (0, 1), torch.Tensor.matmul: (0, 1), torch.Tensor.__matmul__: (0, 1),
    torch.mm: (0, 1), torch.Tensor.mm: (0, 1), torch.addmm: (1, 2), torch.Tensor.addmm: (1, 2),
    torch.einsum: (1, 2), torch.functional.einsum: (1, 2),
}  # fmt: skip


def has_own_forward(layer: nn.Module) -> bool:
    """True for what :class:`QuantOwnForward` may stand in for: subclasses, and transformers' ``Conv1D``."""
    return isinstance(layer, nn.Linear | _ConvNd) or has_inputs_first(layer)


def has_inputs_first(layer: nn.Module) -> bool:
    """True for transformers' ``Conv1D`` (GPT-2), a linear layer with a weight ``[inputs, outputs]``."""
    return any(
        c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(layer).__mro__
    )


class QuantOwnForward(QuantLayer):
    """Put before the layer's class: runs its forward, with input and weight quantized where they meet.

    A forward that changes the weight first (standardizes it, say) stays float. ``quantize`` says so where it
    can try the forward, and else the first pass at quantized bits; so do ``calibrate`` and ``coverage``.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if all_float(self):
            return super().forward(*args, **kwargs)
        return self._watched(*args, **kwargs)

    @torch.compiler.disable
    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        with _OwnProduct(self.weight, self.factors) as product:
            result = super().forward(*args, **kwargs)
        if not product.met:
            self._warn_once()
        return result

    def _warn_once(self) -> None:
        if vars(self).setdefault("untried", multiplies_by_weight(self) is None):
            self.untried = self.input_quantizer.calibrating  # calibration warns itself, of every such layer
            if not self.untried:
                warnings.warn(
                    f"the forward of {self.original_class.__name__} does not multiply by self.weight as it "
                    "stands: such layers stay float in every mode; coverage(example) names them",
                    stacklevel=2,
                )


class _OwnProduct(TorchFunctionMode):
    """Quantizes both operands of each product with a layer's weight, as it stands or transposed.

    Attributes:
        met: True once there was one.
    """

    def __init__(self, weight: Tensor, factors: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.weight, self.factors = weight, factors
        self.transposed: list[Tensor] = []
        self.met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OPERANDS:
            x, place = OPERANDS[func]
            if kwargs.get("weight") is self.weight and args:
                given, kwargs["weight"] = self._factors(args[0])
                args = (given, *args[1:])
            elif len(args) > place:
                turned = any(args[place] is view for view in self.transposed)
                if turned or args[place] is self.weight:
                    args = list(args)
                    args[x], weight = self._factors(args[x])
                    args[place] = weight.t() if turned else weight
        result = func(*args, **kwargs)
        if args and args[0] is self.weight and is_transposed(func, self.weight, result):
            self.transposed.append(result)
        return result

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.met = True
        return self.factors(x)


@torch.no_grad()
def multiplies_by_weight(layer: nn.Module) -> bool | None:
    """Whether the forward of a layer's class multiplies by its weight, tried on a copy with zeros.

    Args:
        layer: a linear layer or a convolution, of which :func:`has_own_forward` holds; converted or not.

    Returns:
        None if it could not be tried, because it takes other inputs, say.
    """
    kind = getattr(layer, "original_class", type(layer))
    weight: Any = layer.weight
    if isinstance(layer, _ConvNd):
        spans = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        shape = (1, layer.in_channels, *spans)
    else:
        shape = (1, weight.shape[0] if has_inputs_first(layer) else weight.shape[1])
    try:
        layer = copy.deepcopy(layer)
        weight = layer.weight
        with torch.random.fork_rng(devices=[]), _OwnProduct(weight, lambda x: (x, weight)) as product:
            kind.forward(layer, torch.zeros(shape, dtype=weight.dtype, device=weight.device))
    except Exception:  # code of the user's own may raise anything on an input that it was not written for
        return None
    return product.met
