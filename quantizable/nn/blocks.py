"""The blocks of a network: what its containers hold, as residual blocks, and the layers between them."""

from __future__ import annotations

from torch import nn

from quantizable.nn.structure import SWITCHABLE

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def named_blocks(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The outermost modules with switchable layers or norms that are no containers, by name.

    A model that does nothing but call one of its children is looked into.

    Args:
        model: a converted network.
        prefix: of the names.
    """
    holding = {
        f"{prefix}{name}": child
        for name, child in model.named_children()
        if any(isinstance(part, SWITCHABLE) for part in child.modules())
    }
    found: dict[str, nn.Module] = {}
    for name, child in holding.items():
        whole = len(holding) == 1 and not isinstance(child, SWITCHABLE)
        if whole or isinstance(child, CONTAINERS):
            found |= named_blocks(child, f"{name}.")
        else:
            found[name] = child
    return found
