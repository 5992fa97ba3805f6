"""The matrix products inside recurrent layers, as layers of their own that can be quantized.

A recurrent layer multiplies its input, its state and, with a projection, its output by its own weights. Each
such product becomes a child of it (``ih_l0``, ``hh_l0``, ``hr_l0``, ``ih_l0_reverse``; of cells ``ih``
and ``hh``) that owns its quantizers and no weight. So it has a name, bits and a grid as other layers have,
and the layer's own parameters keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantizable.nn.layers import QUANT_CLASSES, QuantLayer
from quantizable.nn.recurrence import Grid
from quantizable.quantizers import LSQActivation, Quantizer


class Product(nn.Module):
    """``x W^T + b`` with the weight and the bias of a recurrent layer.

    Args:
        layer: the recurrent layer.
        name: which of its weights: ``"ih_l0"`` for ``weight_ih_l0`` and ``bias_ih_l0``.
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # no child: it is the parent
        self.weight_name, self.bias_name = f"weight_{name}", f"bias_{name}"

    @property
    def weight(self) -> Tensor:
        """The weight, ``[out, in]``."""
        return getattr(self.layer, self.weight_name)

    @property
    def bias(self) -> Tensor | None:
        """The bias, ``[out]``, if there is one."""
        return getattr(self.layer, self.bias_name, None)

    @property
    def in_features(self) -> int:
        """Features of its input."""
        return self.weight.shape[1]

    @property
    def reads_state(self) -> bool:
        """True if its input is the layer's own state, False for the layer's input."""
        return "_ih" not in self.weight_name

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """``x`` ``[..., in]`` to ``[..., out]``; ``weight``: what :meth:`operand` gave, if that was asked."""
        return F.linear(x, self.weight if weight is None else weight, self.bias)

    def operand(self) -> Tensor:
        """The weight as the product sees it, to be computed once for all steps of a sequence."""
        return self.weight

    def extra_repr(self) -> str:
        return self.weight_name


class QuantProduct(QuantLayer, Product):
    """:class:`Product` on quantized input and weight."""

    float_class = Product
    noted: list[Tensor] | None = None  # the states of a sequence while it is looked at, unquantized

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        if weight is None:
            return F.linear(*self.factors(x), self.bias)
        if self.noted is not None:
            self.noted.append(x)
            return F.linear(x, weight, self.bias)
        return F.linear(self.input_quantizer(x), weight, self.bias)

    def operand(self) -> Tensor:
        return self.quantized_weight()

    def awaits_states(self) -> bool:
        """True if the grid of its input is set from the states that come by, all of a sequence at once."""
        quantizer = self.input_quantizer
        if not isinstance(quantizer, Quantizer) or torch.compiler.is_compiling():
            return False
        starts = quantizer.training and torch.is_grad_enabled()
        return quantizer.calibrating or (
            starts and quantizer.active is not None and not quantizer.active.ready
        )

    def share_sample(self, calls: float) -> None:
        """Say how many calls are of one sample, for the gradient of a learned step size."""
        if isinstance(self.input_quantizer, LSQActivation):
            self.input_quantizer.calls_a_sample = calls

    def grid(self, x: Tensor) -> tuple[Tensor, Grid] | None:
        """Step size and range of the states, where the recurrence of :mod:`~quantizable.nn.recurrence` fits.

        It does in training by LSQ in float32, if nobody watches the product by hooks.

        Args:
            x: the first state, ``[B, H]``.
        """
        quantizer = self.input_quantizer
        level = quantizer.active if type(quantizer) is LSQActivation else None
        if level is None or not torch.is_grad_enabled() or not level.ready or torch.compiler.is_compiling():
            return None
        if not x.numel():  # no sequences: no gradient to scale by their number
            return None
        assert isinstance(quantizer, LSQActivation)
        settling = quantizer.calibrating or (quantizer._unsure and quantizer.training)
        if settling or watched(self) or watched(quantizer) or torch.is_autocast_enabled(x.device.type):
            return None
        if not x.dtype == self.weight.dtype == level.scale.dtype == torch.float32:
            return None
        return level.scale, Grid(level.quant_min, level.quant_max, quantizer.grad_scale(x, level))


def watched(module: nn.Module) -> bool:
    """True if a hook wants to see the calls of a module."""
    everywhere = torch.nn.modules.module
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
    )  # fmt: skip


@contextmanager
def noting_states(products: Sequence[QuantProduct]) -> Iterator[None]:
    """Let the states pass unquantized, then show each product's grid all of them at once."""
    for product in products:
        product.noted = []
    try:
        with torch.no_grad():
            yield
        seen = [torch.cat(product.noted or []) for product in products]
    finally:
        for product in products:
            product.noted = None
    for product, states in zip(products, seen, strict=True):
        product.input_quantizer(states)


QUANT_CLASSES[Product] = QuantProduct
