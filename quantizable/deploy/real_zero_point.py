"""What a real zero point (LSQ+) adds to a layer's output, so that the layer itself can run on integers.

With ``value = (code - zero_point - remainder) * scale`` the layer's output is that of the integers less
``remainder * scale * layer(1)``. ``layer(1)`` is one number per output channel, except at the border of a
zero-padded convolution, where fewer ones are summed.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from quantizable.deploy.integer_nodes import InputNode, WeightNode
from quantizable.nn import QuantLayer
from quantizable.nn.own_forward import QuantOwnForward


class FixedWeight(nn.Module):
    """Gives out one weight, whatever it is asked for."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor | None = None) -> Tensor:
        return self.weight


class RemainderShare(nn.Module):
    """A forward hook that subtracts ``amount * layer(1)`` from a layer's output."""

    def __init__(self, layer: nn.Module, weight: Tensor, amount: float) -> None:
        super().__init__()
        # one input channel stands for all: the weights summed over the input channels
        twin = copy.copy(layer)
        summed = FixedWeight(amount * weight.sum(1, keepdim=True))
        twin._modules = {"input_quantizer": nn.Identity(), "weight_quantizer": summed}
        twin._parameters = {**layer._parameters, "bias": None}
        twin._forward_hooks = type(layer._forward_hooks)()
        if isinstance(layer, _ConvNd):
            twin.groups, twin.in_channels = 1, 1  # type: ignore[assignment]
        self.twin = twin

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        ones = x.new_ones((1, 1, *x.shape[2:]) if isinstance(layer, _ConvNd) else (1,))
        return output - self.twin(ones)


def adds_remainder(layer: nn.Module) -> bool:
    """True for the layers whose output is the matrix product itself: convolutions and linear layers."""
    product = isinstance(layer, _ConvNd | nn.Linear) and not isinstance(layer, _ConvTransposeNd)
    return product and isinstance(layer, QuantLayer) and not isinstance(layer, QuantOwnForward)


def share_remainder(layer: nn.Module, given: InputNode, weight: WeightNode) -> RemainderShare | None:
    """Move the remainder of a real zero point from the layer's input to its output, in place."""
    if not given.grid.remainder or not adds_remainder(layer):
        return None
    share = RemainderShare(layer, weight.value(), given.remainder)
    layer.register_forward_hook(share)
    given.drops_remainder = True
    return share
