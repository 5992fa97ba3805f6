"""Weights that are quantized once for all batches of an optimizer step.

With accumulated batches the weights stay as they are until the optimizer steps, and so do their codes. Each
mode's quantized weight is cut off from the graph and collects the gradients of all batches. At the step these
go through the quantizer together. That is linear in them, so that the sums are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import KeptWeight, QuantLayer
from quantizable.quantizers import Quantizer


@dataclass
class _Kept:
    quantized: Tensor  # with its graph, down to the weight and its step sizes
    cut_off: KeptWeight  # what the layer's product takes


class KeptWeights:
    """The quantized weights of an optimizer step, one for each layer and bit-width that was visited.

    Until :meth:`hand_on` they take the memory of two weights each, one for the gradient.

    Args:
        keeps: False: nothing is kept, and layers quantize in each pass.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self._kept: dict[tuple[QuantLayer, int], _Kept] = {}

    @contextmanager
    def used(self, network: QuantizableNetwork) -> Iterator[None]:
        """Around one forward and backward pass of the network in its mode: products take the kept weights."""
        if not self.keeps:
            yield
            return
        layers = [one for one in network.layers().values() if isinstance(one, QuantLayer) and _stays(one)]
        try:
            for layer in layers:
                layer.kept_weight = self._of(layer)
            yield
        finally:
            for layer in layers:
                layer.kept_weight = None

    def hand_on(self) -> None:
        """Add what the kept weights collected to the gradients of weights and step sizes, and forget them.

        To be called before anything reads or changes these: the optimizer's step, an average in their place.
        """
        kept, self._kept = self._kept, {}
        reached = [one for one in kept.values() if one.cut_off.weight.grad is not None]
        if reached:
            gradients = [one.cut_off.weight.grad for one in reached]
            torch.autograd.backward([one.quantized for one in reached], gradients)

    def forget(self) -> None:
        """Forget them and their gradients, of a run that was broken off."""
        self._kept = {}

    def _of(self, layer: QuantLayer) -> KeptWeight:
        key = (layer, layer.weight_quantizer.bits)
        if key not in self._kept:
            quantized = layer.weight_quantizer(layer.float_weight())
            weight = quantized.detach().requires_grad_(quantized.requires_grad)
            self._kept[key] = _Kept(quantized, KeptWeight(weight, layer.weight_quantizer.active))
        return self._kept[key].cut_off


def _stays(layer: QuantLayer) -> bool:
    """True if a weight quantizer is at work, and the weight stays until the optimizer's step."""
    quantizer = layer.weight_quantizer
    return (
        # any module may stand in a quantizer's place
        isinstance(quantizer, Quantizer)
        and quantizer.active is not None
        and quantizer.active.ready
        and not quantizer.calibrating
        # pruning, parametrizations and hooks make the weight anew in each forward pass
        and layer._parameters.get("weight") is not None
        and not layer._forward_pre_hooks
    )
