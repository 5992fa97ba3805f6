"""What is assessed: callables from pixels to logits, usually the modes of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizable.bits import ModeLike
from quantizable.network import QuantizableNetwork

Model = Callable[[Tensor], Tensor]
"""Pixels ``[B, C, H, W]`` in [0, 1] to logits ``[B, K]``: a mode, an ONNX session, another framework's
model."""

CHUNK = 64  # inputs in one forward pass: a CIFAR network's activations then stay in the processor's caches


@dataclass(frozen=True)
class ModeModel:
    """One mode of a network, fed with pixels: the only place where an assessment normalises images.

    Args:
        network: in evaluation mode.
        mode: one of its modes.
        mean, std: per channel, as in training; empty for images that are not normalised.
    """

    network: QuantizableNetwork
    mode: ModeLike
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``[B, K]`` of pixels ``[B, C, H, W]``."""
        if self.mean:
            mean, std = (pixels.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
            pixels = (pixels - mean) / std
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # a quarter faster on CPUs
        with self.network.at_bits(self.mode):
            return self.network(pixels).float()


def mode_models(network: QuantizableNetwork, modes: Iterable[ModeLike] | None = None) -> dict[str, Model]:
    """The modes (all by default) of a network that :func:`quantizable.load` gave, by name, lowest first.

    Raises:
        ValueError: a mode that the network lacks.
    """
    asked = network.modes if modes is None else sorted({network.check_mode(mode) for mode in modes})
    info = getattr(network, "info", {})
    mean, std = tuple(info.get("mean") or ()), tuple(info.get("std") or ())
    network.eval()
    return {mode.name: ModeModel(network, mode, mean, std) for mode in asked}


@dataclass(frozen=True)
class Pair:
    """Two models that should give the same answer.

    Args:
        reference: usually the full-precision mode.
        quantized: usually a low mode.
        name: shown in tables, for example ``"4 against 32"``.
    """

    reference: Model
    quantized: Model
    name: str = "pair"

    def probabilities(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both softmax outputs, each ``[B, K]``."""
        parts = [(self.reference(part), self.quantized(part)) for part in pixels.split(CHUNK)]
        p, q = (torch.cat(rows).softmax(1) for rows in zip(*parts, strict=True))
        return p, q


def probabilities(models: Mapping[str, Model], pixels: Tensor, batch_size: int = CHUNK) -> dict[str, Tensor]:
    """Softmax output ``[N, K]`` of each model on pixels ``[N, C, H, W]``."""
    with torch.no_grad():
        parts = [
            {name: model(batch).softmax(1) for name, model in models.items()}
            for batch in pixels.split(batch_size)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in models}
