"""Disagreement under shifts as an objective of a search for bits per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantizable.assess.corruptions import corrupt
from quantizable.network import QuantizableNetwork
from quantizable.search.measures import Measure

SHIFTS = ("gaussian_noise", "defocus_blur", "fog", "contrast")  # of each group of CIFAR-10-C one
CHUNK = 64


def shift_disagreement(
    network: QuantizableNetwork,
    images: Tensor,
    norm: tuple[Sequence[float], Sequence[float]],
    names: Sequence[str] = SHIFTS,
    severity: int = 3,
) -> Measure:
    """The share of corrupted images to which a candidate and the highest mode give different answers.

    Args:
        network: in evaluation mode.
        images: ``[N, C, H, W]``, normalized.
        norm: the data's means and standard deviations per channel.
        names: corruptions, each of all images.
        severity: 1 to 5.

    Raises:
        ValueError: an unknown corruption or severity.
    """
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in norm)
    pixels = (images * std + mean).clamp(0, 1)
    shifted = torch.cat([corrupt(pixels, name, severity) - mean for name in names]) / std

    @torch.inference_mode()
    def answers(network: QuantizableNetwork) -> Tensor:
        return torch.cat([network(x).argmax(1) for x in shifted.split(CHUNK)])

    with network.at_bits(network.modes[-1]):
        wanted = answers(network)

    def of(network: QuantizableNetwork) -> float:
        return (answers(network) != wanted).double().mean().item()

    return Measure("shifts", {"names": list(names), "severity": severity}, of)
