"""Which quantized class stands in for a float layer, and the swap there and back, in place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from quantizable.nn.derived_classes import derived
from quantizable.nn.layers import QUANT_CLASSES, QuantLayer
from quantizable.nn.own_forward import QuantOwnForward, has_own_forward
from quantizable.quantizers import Quantizer


def quant_class(layer: nn.Module) -> type[QuantLayer] | None:
    """The quantized class of a float layer, or None if there is none.

    A subclass that inherits its forward (torchvision's, many timm ones) counts as its base class; one with a
    forward of its own, and transformers' ``Conv1D``, keeps it (:class:`QuantOwnForward`). A parametrized
    layer (``weight_norm``) keeps computing its weight, which is then quantized.
    """
    kind = type(layer)
    if isinstance(layer, QuantLayer):
        return None
    base = next((base for base in kind.__mro__ if base in QUANT_CLASSES), None)
    if base is not None and kind.forward is base.forward:
        quant = QUANT_CLASSES[base]
        if not quant.fits(layer):
            return None
        return derived(quant, kind) if is_parametrized(layer) else quant
    if has_own_forward(layer) and not is_parametrized(layer) and isinstance(layer.weight, nn.Parameter):
        return derived(QuantOwnForward, kind)
    return None


def quantize_layer(
    layer: nn.Module,
    make_weight_quantizer: Callable[[Tensor], Quantizer],
    input_quantizer: Quantizer,
    fixed_bits: int | None,
) -> None:
    """Turn ``layer`` into its quantized class in place; its parameters and names stay."""
    quant = quant_class(layer)
    if quant is None:
        raise TypeError(
            f"{type(layer).__name__} has no quantized class; there are {[c.__name__ for c in QUANT_CLASSES]}"
        )
    original_class = type(layer)
    layer.__class__ = quant
    assert isinstance(layer, QuantLayer)
    weight = layer.float_weight().detach()
    layer.original_class = original_class
    layer.input_quantizer = input_quantizer.to(weight.device).train(layer.training)
    layer.weight_quantizer = make_weight_quantizer(weight).to(weight.device).train(layer.training)
    layer.fixed_bits = fixed_bits


def to_float(layer: QuantLayer) -> None:
    """Turn a quantized layer back into the float layer it was, in place."""
    layer.__class__ = layer.__dict__.pop("original_class")
    layer.__dict__.pop("history", None)
    del layer.input_quantizer, layer.weight_quantizer, layer.fixed_bits
