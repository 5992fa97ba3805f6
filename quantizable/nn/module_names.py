"""A module may have several names in a network; what is done to it must be done under all of them."""

from __future__ import annotations

from torch import nn


def names_of(model: nn.Module, module: nn.Module) -> list[str]:
    """All dotted names of a module in a network, the one that ``named_modules`` gives first."""
    return [name for name, held in model.named_modules(remove_duplicate=False) if held is module]


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in the place of ``old`` under all its names, in place."""
    for name in names_of(model, old):
        model.set_submodule(name, new)
