"""A quantizable network from names and options in plain types: what a config or a checkpoint holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from quantizable.bits import parse_modes
from quantizable.convert import quantize
from quantizable.models.create import create_model
from quantizable.models.weights import load_float_weights
from quantizable.network import QuantizableNetwork


def build_network(
    model: str | nn.Module,
    num_classes: int,
    bits: Sequence[Any],
    quantizer: str = "lsq",
    weights: str | None = None,
    reset_head: bool = False,
    model_options: dict[str, Any] | None = None,
    quantize_options: dict[str, Any] | None = None,
) -> QuantizableNetwork:
    """Create the float network, load its weights, make it quantizable.

    Args: as of :class:`quantizable.training.classifier.QuantizableClassifier`.

    Raises:
        ValueError, FileNotFoundError: as ``create_model``, ``load_float_weights`` and ``quantize`` do;
            illegal bits are refused first.
    """
    modes = parse_modes(bits)
    if isinstance(model, str):
        model = create_model(model, num_classes, **(model_options or {}))
    if weights is not None:
        load_float_weights(model, weights, reset_head)
    return quantize(model, modes, quantizer, **(quantize_options or {}))
