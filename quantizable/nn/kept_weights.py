"""Weights that are quantized once for several passes: the batches of an optimizer step, or an evaluation.

With accumulated batches the weights stay as they are until the optimizer steps, and so do their codes. Each
mode's quantized weight is cut off from the graph and collects the gradients of all batches. At the step these
go through the quantizer together. That is linear in them, so that the sums are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantizable.nn.layers import KeptWeight, QuantLayer
from quantizable.quantizers import Quantizer


class KeptWeights:
    """The quantized weights of an optimizer step, one for each layer and bit-width that was visited.

    Until :meth:`hand_on` they take the memory of two weights each, one for the gradient.

    Args:
        keeps: False: nothing is kept, and layers quantize in each pass.
    """

    def __init__(self, keeps: bool = True) -> None:
        self.keeps = keeps
        self._layers: list[QuantLayer] = []  # of the network, looked for once a step
        # quantized, with the graph down to weight and step sizes; and what the layer's product takes
        self._kept: dict[tuple[QuantLayer, int], tuple[Tensor, KeptWeight]] = {}

    @contextmanager
    def used(self, network: nn.Module) -> Iterator[None]:
        """Around one forward and backward pass of the network in its mode: products take the kept weights.

        Raises:
            ValueError: the network, or a part of it, is compiled: it quantizes inside its graph.
        """
        if not self.keeps:
            yield
            return
        if not self._layers:
            if is_compiled(network):
                raise ValueError("keep_weights=True is for eager networks; leave it out, or do not compile")
            self._layers = [layer for layer in network.modules() if isinstance(layer, QuantLayer)]
        layers = [layer for layer in self._layers if _stays(layer)]
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
        reached = [(one, cut) for one, (cut, _) in self._kept.values() if cut.grad is not None]
        self.forget()
        if reached:
            torch.autograd.backward([one for one, _ in reached], [cut.grad for _, cut in reached])

    def forget(self) -> None:
        """Forget them and their gradients, of a run that was broken off."""
        self._layers, self._kept = [], {}

    def _of(self, layer: QuantLayer) -> KeptWeight:
        key = (layer, layer.weight_quantizer.bits)
        if key not in self._kept:
            quantized = layer.weight_quantizer(layer.float_weight())
            weight = quantized.detach().requires_grad_(quantized.requires_grad)
            self._kept[key] = quantized, KeptWeight(weight, layer.weight_quantizer.active)
        return self._kept[key][1]


def is_compiled(network: nn.Module) -> bool:
    """Whether the network, or a part of it, is compiled."""
    return any(part._compiled_call_impl is not None for part in network.modules())


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
