"""Layers that were put in a model after it was converted, found again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizable.bits import BitMode
from quantizable.nn import encoder_fast_path, reading, recurrent, shifted_windows
from quantizable.nn.additions import share_grids
from quantizable.nn.conversion import (
    QuantizeConfig,
    check_weights,
    classifier_of,
    convert,
    first_and_last,
    layer_options,
    multiplying,
)
from quantizable.nn.derived_classes import DerivedClass
from quantizable.nn.layers import QuantLayer
from quantizable.nn.left_float import warn_of_left_float
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.operands import Operands
from quantizable.quantizers import Level, Quantizer

SWITCHABLE = (QuantLayer, Operands, PerModeNorm)


def parts(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """The modules of a model, without the inside of its quantizers and norms."""
    if id(module) in seen:
        return
    seen.add(id(module))
    yield module
    for child in module._modules.values():
        if child is not None and not isinstance(child, PerModeNorm | Quantizer):
            yield from parts(child, seen)


def named_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model by name, without quantizers and what holds those of products."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, Operands | Quantizer | Level):
            inside += (f"{name}.",)
        elif not name.startswith(inside):
            yield name, module


def class_in_the_model(module: nn.Module) -> type[nn.Module]:
    """The class without what was derived of it to quantize the products in its code."""
    kind = type(module)
    while isinstance(kind, DerivedClass):
        kind = kind.__bases__[-1]
    return kind


class Structure:
    """Which module holds which, to notice at the cost of a few microseconds that it changed."""

    def __init__(self, model: nn.Module) -> None:
        self.children = [(module, dict(module._modules)) for module in parts(model, set())]
        head, self.classes = classifier_of(model)
        # what a network of the same name has, whatever the number of its classes and where products of
        # activations were found
        self.architecture = [
            (
                name,
                class_in_the_model(module),
                [p is not None and name != head and p.shape for p in module._parameters.values()],
            )
            for name, module in named_parts(model)
        ]
        self.shared_norms = [m for m, _ in self.children if isinstance(m, _BatchNorm)]
        self.switchable: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, SWITCHABLE)
        }
        self.levels = [module for module in model.modules() if isinstance(module, Level)]
        norms = [module for module in self.switchable.values() if isinstance(module, PerModeNorm)]
        self.copies = [(norm, dict(norm.norms._modules)) for norm in norms]

    def follow(self) -> None:
        """Take up what was written past the network: norms in the place of a mode's copy, and signs of step
        sizes, as an average over weights writes them."""
        if self.levels and self.levels[-1].is_written():  # what wrote one wrote all
            for level in self.levels:
                level.reread()
        for norm, copies in self.copies:
            now: dict[str, Any] = norm._modules["norms"]._modules  # type: ignore[union-attr]
            if now != copies:
                norm.set_bits(norm.mode)
                copies.clear()
                copies.update(now)

    def fits(self, model: nn.Module) -> bool:
        """True if nothing was put in, taken out or renamed since."""
        return self.children[0][0] is model and not any(
            module._modules != children for module, children in self.children
        )

    @property
    def modules(self) -> set[nn.Module]:
        """What it knows."""
        return {
            m for module, children in self.children for m in (module, *children.values()) if m is not None
        }


def check_new(
    part: nn.Module, modes: list[BitMode], known: Collection[nn.Module] = (), within: str = ""
) -> None:
    """``ValueError`` if what is new in a part of a model cannot be converted, or has other modes."""
    check_weights(part, within)
    for name, module in part.named_modules(prefix=within):
        if module in known or not isinstance(module, SWITCHABLE):
            continue
        for mode in modes:
            try:
                if isinstance(module, PerModeNorm) and mode not in module.modes:
                    raise ValueError(f"it has no mode {mode.name}")
                if not isinstance(module, PerModeNorm):
                    module.check(mode)
            except ValueError as error:
                raise ValueError(
                    f"{name!r} comes from a network of other modes ({error}); put in a float layer"
                ) from None


def convert_new(
    model: nn.Module, before: Structure, modes: list[BitMode], config: dict[str, Any]
) -> Structure:
    """Convert what was put in ``model`` since, by the network's own config, in place.

    A layer in the place of another of the same kind and width reads the same input: it takes over its grid.

    Raises:
        ValueError: see :func:`check_new`.
    """
    known = before.modules
    check_new(model, modes, known)
    recurrent.split_products(model, known)
    warn_of_left_float(model, config["exclude"], known)
    encoder_fast_path.call_layers(model, known)
    shifted_windows.call_layers(model, known)
    convert(model, modes, QuantizeConfig(**config), known)
    reading.call_layers(model, known)
    for name, old in before.switchable.items():
        try:
            layer, holder = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
        except AttributeError:  # deleted
            continue
        if layer is not old and layer not in known and holder in known and same_input(layer, old):
            layer.input_quantizer = copy.deepcopy(old.input_quantizer)
    share_grids(model)
    _keep_widths(model, config)
    return Structure(model)


def _keep_widths(model: nn.Module, config: dict[str, Any]) -> None:
    """Say in the config which layers have another width than a new network would give them.

    A layer that was the last when it was converted keeps its width when another is put behind it, and files
    must say so.
    """
    names, asked = multiplying(model), QuantizeConfig(**config)
    ends = set().union(*first_and_last(model, names)) if names else set()
    for name in names:
        layer = model.get_submodule(name)
        options = layer_options(asked, name, name in ends)
        if isinstance(layer, QuantLayer) and options is not None:
            held = layer.fixed_bits or "mode"
            if held != options["bits"]:
                config["overrides"][name] = {**config["overrides"].get(name, {}), "bits": held}


def same_input(layer: nn.Module, old: nn.Module) -> bool:
    """True if both are quantized layers of one kind, with inputs of one width and equal bit-widths."""
    if not isinstance(layer, QuantLayer) or not isinstance(old, QuantLayer):
        return False
    return (
        layer.float_class is old.float_class
        and input_width(layer) == input_width(old)
        and type(layer.input_quantizer) is type(old.input_quantizer)
        and layer.input_quantizer.widths == old.input_quantizer.widths
    )


def input_width(layer: nn.Module) -> Any:
    """Features or channels of a layer's input."""
    names = ("in_features", "in_channels", "embed_dim", "in1_features", "embedding_dim")
    return next(getattr(layer, name) for name in names if hasattr(layer, name))
