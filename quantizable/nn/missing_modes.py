"""Modes that a checkpoint lacks: what of them can be started anew without data, and which they are."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from quantizable.bits import BitMode
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import PerModeNorm
from quantizable.quantizers import Quantizer


def start_without_data(model: nn.Module, held: Collection[str]) -> None:
    """Start what a checkpoint of fewer modes left as it was, after it was loaded, in place.

    Norms become copies of those of the nearest mode that it has; step sizes of weights are fitted to the
    weights that it brought. Those of activations wait for data: their quantizers know.

    Args:
        model: the converted network.
        held: the keys of the checkpoint, as ``model.state_dict()`` has them.
    """
    for name, module in model.named_modules():
        if isinstance(module, PerModeNorm):
            _copy_norms(module, {key.split(".", 1)[0] for key in _below(f"{name}.norms.", held)})
        elif isinstance(module, QuantLayer) and isinstance(module.weight_quantizer, Quantizer):
            present = {key.split(".", 1)[0] for key in _below(f"{name}.weight_quantizer.levels.", held)}
            missing = [int(bits) for bits in module.weight_quantizer.levels if bits not in present]
            if present and missing:
                module.weight_quantizer.refit(module.float_weight().detach(), missing)


def nearest(mode: BitMode, held: Collection[BitMode]) -> BitMode:
    """The mode of ``held`` whose norms suit ``mode`` best, the higher of two."""

    def distance(other: BitMode) -> tuple[int, int, int]:
        # norms follow the weights' width first: it changes the scale of what they normalize
        weight, activation = mode.weight - other.weight, mode.activation - other.activation
        return abs(weight), abs(activation), weight + activation

    return min(held, key=distance)


def _below(prefix: str, keys: Collection[str]) -> list[str]:
    return [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]


def _copy_norms(norm: PerModeNorm, present: Collection[str]) -> None:
    held = [mode for mode in norm.modes if mode.name in present]
    for mode in norm.modes if held else []:
        if mode not in held:
            source = norm.norms[nearest(mode, held).name]
            norm.norms[mode.name].load_state_dict(source.state_dict())
