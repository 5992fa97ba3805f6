"""Layers whose forward is their own but multiplies by their weight as it stands, and parametrized ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from quantizable.nn.layers import QuantLayer, all_float

# places of the input and of the weight among the arguments
OPERANDS: dict[Any, tuple[int, int]] = {
    F.linear: (0, 1), F.conv1d: (0, 1), F.conv2d: (0, 1), F.conv3d: (0, 1),
    F.conv_transpose1d: (0, 1), F.conv_transpose2d: (0, 1), F.conv_transpose3d: (0, 1),
    torch.matmul: (0, 1), torch.Tensor.matmul: (0, 1), torch.addmm: (1, 2), torch.Tensor.addmm: (1, 2),
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

    A forward that changes the weight first (standardizes it, say) stays float; ``calibrate`` and
    ``coverage`` say so.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if all_float(self):
            return super().forward(*args, **kwargs)
        return self._watched(*args, **kwargs)

    @torch.compiler.disable
    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        with _OwnProduct(self):
            return super().forward(*args, **kwargs)


class _OwnProduct(TorchFunctionMode):
    """Quantizes both operands of each product with the layer's weight."""

    def __init__(self, layer: QuantLayer) -> None:
        super().__init__()
        self.layer, self.weight = layer, layer.weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OPERANDS:
            x, weight = OPERANDS[func]
            if kwargs.get("weight") is self.weight and args:
                given, kwargs["weight"] = self.layer.factors(args[0])
                args = (given, *args[1:])
            elif len(args) > weight and args[weight] is self.weight:
                args = list(args)
                args[x], args[weight] = self.layer.factors(args[x])
        return func(*args, **kwargs)
