"""torch's TransformerEncoder reads its layers' weights on a fast path, which it takes here in float only.

What a layer's forward does with its weight would be lost on it: it would run in float in every mode.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from quantizable.nn.layers import all_float

# the attribute by which each asks whether it may take its fast path
FAST_PATHS = {
    nn.TransformerEncoder: "use_nested_tensor",
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
}


class FastPath:
    """Stands in for such an attribute: true only while all layers inside are float.

    Asking at each call leaves mode 32 the very path that the float network takes, to the last bit.
    """

    def __init__(self, module: nn.Module, value: Any) -> None:
        self.module, self.value = module, value

    def __bool__(self) -> bool:
        return bool(self.value) and all_float(self.module)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == other)  # the encoder layer has 1 for ReLU, 2 for GELU

    __hash__ = None  # type: ignore[assignment]


def call_layers(model: nn.Module, known: Collection[nn.Module] = ()) -> None:
    """Make the encoders in ``model``, but for ``known`` ones, call their layers where one is quantized."""
    for module in model.modules():
        if module in known or any(isinstance(held, FastPath) for held in vars(module).values()):
            continue
        for kind, name in FAST_PATHS.items():
            if isinstance(module, kind) and hasattr(module, name):
                setattr(module, name, FastPath(module, getattr(module, name)))


def restore(module: nn.Module) -> None:
    """Undo what :func:`call_layers` did to one module, in place."""
    for name in FAST_PATHS.values():
        if isinstance(held := getattr(module, name, None), FastPath):
            setattr(module, name, held.value)
