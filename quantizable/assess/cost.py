"""Bit operations of a mode: multiplications weighted by the bit-widths of both factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantizable.bits import ModeLike
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer


def bit_operations(network: QuantizableNetwork, image: Tensor, mode: ModeLike) -> float:
    """BOPs per image: over the quantized layers, multiplications x weight bits x activation bits (32 for float).

    Args:
        image: one normalised image ``[1, C, H, W]``; only its shape matters.
    """
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, QuantLayer)
        # each output value (each input value, for a transposed convolution) meets one filter's worth of weights
        transposed = bool(getattr(layer, "transposed", False))
        uses = (inputs[0] if transposed else output).numel()
        filters = layer.weight.shape[0]
        total += uses * layer.weight.numel() / filters * layer.bits.weight * layer.bits.activation

    layers = [layer for layer in network.layers().values() if isinstance(layer, QuantLayer)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with network.at_bits(mode), torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return total
