"""Which modules a forward pass calls, how often, and on what shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantizable.nn.network_inputs import network_inputs
from quantizable.nn.watching import watching
from quantizable.quantizers import Quantizer


class Call(NamedTuple):
    """Shapes of what a module was given and of what it gave, batch axis included."""

    given: torch.Size
    out: torch.Size


@torch.no_grad()
def layer_calls(model: nn.Module, modules: Mapping[str, nn.Module], example: Any) -> dict[str, list[Call]]:
    """The calls of each of ``modules`` in one forward pass of ``example``; none: an empty list.

    A layer used twice has two, a head of training alone none. Quantizers that never saw data pass everything
    on unchanged and learn nothing from the example.

    Args:
        model: in the evaluation or training mode that is asked about.
        modules: parts of the model, by name.
        example: one batch of inputs, see :func:`~quantizable.nn.network_inputs.network_inputs`.
    """
    calls: dict[str, list[Call]] = {name: [] for name in modules}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[name].append(Call(_shape(inputs), _shape(output)))

    inputs = network_inputs(model, example)
    blank = [m for m in model.modules() if isinstance(m, Quantizer) and not m.initialised]
    for quantizer in blank:
        quantizer.start_calibration()
    try:
        with watching(modules, note):
            inputs(model)
    finally:
        for quantizer in blank:
            quantizer.stop_calibration()
    return calls


def _shape(value: Any) -> torch.Size:
    """Shape of a tensor, or of the first of several."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value.shape if isinstance(value, Tensor) else torch.Size()
