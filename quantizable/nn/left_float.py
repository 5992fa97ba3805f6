"""Which weights of products stay float in every mode, and the one line that says so at conversion."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from quantizable.nn.embedding import EMBEDDINGS
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import is_norm
from quantizable.nn.own_forward import QuantOwnForward, multiplies_by_weight
from quantizable.nn.recurrent import Recurrent
from quantizable.nn.swap import quant_class
from quantizable.quantizers import Level, Quantizer

PRODUCTS = (nn.Linear, _ConvNd, nn.MultiheadAttention, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
"""Families whose members are always named."""
UNSAID = 0.01  # share of the weights of products that may stay float without a word
# words in the names of matrices that are looked up or added, and multiply nothing
LOOKED_UP = ("embed", "pos", "token", "bias", "table", "gamma", "scale", "latent", "prompt", "codebook")


def matrices(module: nn.Module) -> dict[str, int]:
    """Sizes of the weights of products that a module owns itself, by name: its matrices, or larger.

    Embeddings, norms, and what is named as a position, a token, a table or a bias multiply nothing.
    """
    if (
        isinstance(module, (*EMBEDDINGS, Quantizer, Level))
        or is_norm(module)
        or type(module).__name__.endswith(("Embedding", "Norm"))
    ):
        return {}
    return {
        name: parameter.numel()
        for name, parameter in module.named_parameters(recurse=False)
        if sum(size > 1 for size in parameter.shape) >= 2 and not any(word in name for word in LOOKED_UP)
    }


def left_float(model: nn.Module, known: Collection[nn.Module] = ()) -> tuple[dict[str, nn.Module], float]:
    """The modules, save known ones, whose weights of products have no quantized form here.

    Args:
        model: a network, converted or not.
        known: modules to leave out.

    Returns:
        (the modules by name, their share of all weights of products, 0 to 1).
    """
    found: dict[str, nn.Module] = {}
    left = total = 0
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue  # of a layer, which counts them
        quantized = isinstance(module, QuantLayer | Recurrent) or _has_quantized_form(module)
        numbers = sum(_numbers(module))
        total += numbers
        if not quantized and module not in known and (numbers or isinstance(module, PRODUCTS)):
            left += numbers
            found[name] = module
    return found, left / max(total, 1)


def _has_quantized_form(module: nn.Module) -> bool:
    quant = quant_class(module)
    if quant is None or not issubclass(quant, QuantOwnForward):
        return quant is not None
    return multiplies_by_weight(module) is not False


def _numbers(module: nn.Module) -> list[int]:
    own = list(matrices(module).values())
    inside: Mapping[str, nn.Module] = getattr(module, "parametrizations", {})
    return own + [n for part in inside.values() for m in part.modules() for n in matrices(m).values()]


def warn_of_left_float(
    model: nn.Module,
    exclude: Iterable[str] = (),
    known: Collection[nn.Module] = (),
    embedding: bool = False,
) -> None:
    """Name the modules, with their classes, whose weights stay float, if they are more than 1 %.

    Convolutions, linear layers and attention are named whatever their share.

    Args:
        model: a network, converted or not.
        exclude: shell patterns of names of which the user said that they stay float.
        known: modules to leave out.
        embedding: also name embeddings that stay float although they were asked for.
    """
    meant = {m for name, m in model.named_modules() if any(fnmatchcase(name, one) for one in exclude)}
    found, share = left_float(model, {*known, *meant})
    if share <= UNSAID:
        found = {name: module for name, module in found.items() if isinstance(module, PRODUCTS)}
    if embedding:
        found |= {
            name: m
            for name, m in model.named_modules()
            if isinstance(m, EMBEDDINGS) and quant_class(m) is None
        }
    if found:
        named = ", ".join(f"{name or 'the network'} ({type(m).__name__})" for name, m in found.items())
        warnings.warn(
            f"{named}: there is no quantized form of these layers, or of their options, here, and they stay "
            f"float in every mode ({share:.1%} of the weights of products)",
            stacklevel=3,
        )
