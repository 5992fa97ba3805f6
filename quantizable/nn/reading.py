"""Finds the modules whose code reads weights past layers or multiplies activations, and watches them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import CodeType, FunctionType

from torch import nn

from quantizable.nn.derived_classes import derived
from quantizable.nn.encoder_fast_path import FAST_PATHS
from quantizable.nn.functional_calls import CallsLayers
from quantizable.nn.layers import QuantLayer, QuantLinear
from quantizable.nn.operands import FunctionalProducts
from quantizable.quantizers import Quantizer

PRODUCTS = "products"


def words_of_forward(kind: type[nn.Module]) -> set[str]:
    """Names that ``forward`` of a class uses, and the methods of the class that it calls."""
    words: set[str] = set()
    waiting = ["forward"]
    while waiting:
        found = getattr(kind, waiting.pop(), None)
        if isinstance(found, FunctionType):
            new = set(_names(found.__code__)) - words
            words |= new
            waiting += [word for word in new if isinstance(getattr(kind, word, None), FunctionType)]
    return words


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def read_past(module: nn.Module) -> list[str]:
    """Names of the quantized linear layers inside whose ``weight`` the code of a module reads."""
    linear = [name for name, child in module.named_children() if isinstance(child, QuantLinear)]
    # an encoder reads weights on its fast path alone, see encoder_fast_path
    if not linear or isinstance(module, (QuantLayer, *FAST_PATHS)):
        return []
    words = words_of_forward(vars(module).get("original_calls", type(module)))
    return [name for name in linear if name in words] if "weight" in words else []


def call_layers(model: nn.Module, known: Collection[nn.Module] = ()) -> None:
    """Watch the modules in ``model``, but for known ones, that read weights past layers, in place."""
    for module in [*model.modules()]:
        if module not in known and (names := read_past(module)):
            watch(module, tuple(names))


def watch(module: nn.Module, read_names: tuple[str, ...] = ()) -> None:
    """Put :class:`CallsLayers` before the class of one module, in place."""
    if not isinstance(module, CallsLayers):
        original = type(module)
        module.__class__ = derived(CallsLayers, original)
        module.original_calls = original  # type: ignore[assignment]
        module.read_names = ()  # type: ignore[assignment]
    if read_names:
        module.read_names = read_names  # type: ignore[assignment]


def add_products(holder: nn.Module, operands: Iterable[str], make_quantizer: Callable[[], Quantizer]) -> None:
    """Quantize products of two activations in a module's code, in place; operands it has already stay.

    Args:
        holder: the module.
        operands: their names, ``"0_left"`` and so on, see :class:`FunctionalProducts`.
        make_quantizer: gives a new quantizer for each.
    """
    watch(holder)
    if PRODUCTS not in holder._modules:
        products = FunctionalProducts()
        products.add_module("operands", nn.ModuleDict())
        holder.add_module(PRODUCTS, products)
    held = holder.get_submodule(f"{PRODUCTS}.operands")
    device = next((p.device for p in holder.parameters()), None)
    for name in operands:
        if name not in held._modules:
            held.add_module(name, make_quantizer().to(device).train(holder.training))


def restore(module: nn.Module) -> None:
    """Undo what this file did to one module, in place."""
    if isinstance(module, CallsLayers):
        module.__class__ = module.__dict__.pop("original_calls")
        del module.__dict__["read_names"]
        if isinstance(module._modules.get(PRODUCTS), FunctionalProducts):
            del module._modules[PRODUCTS]
