"""What is done to an image file before a network sees it outside of training, said in plain types.

A data module says it, checkpoints and exported files carry it, and whoever reads an image for the network
makes the same transform of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

KEY = "evaluation"  # of what a data module, a checkpoint and an exported file say


def resize_and_crop(
    image_size: int, crop_fraction: float = 1.0, interpolation: str = "bilinear"
) -> dict[str, Any]:
    """In plain types: resize the shorter side, then cut out the middle.

    Args:
        image_size: side of the cut, in pixels.
        crop_fraction: share of the resized image's shorter side that the cut keeps, above 0.
        interpolation: of the resizing; a value of torchvision's ``InterpolationMode``.
    """
    return {"resize": round(image_size / crop_fraction), "crop": image_size, "interpolation": interpolation}


def evaluation_transform(steps: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """PIL image to normalized float32 ``[C, H, W]``.

    Args:
        steps: as :func:`resize_and_crop` gives them.
        mean, std: per channel, of images in [0, 1].

    Raises:
        ValueError: an interpolation that torchvision does not have.
    """
    to_float = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([resized_bytes(steps), to_float, v2.Normalize(list(mean), list(std))])


def resized_bytes(steps: Mapping[str, Any]) -> v2.Compose:
    """PIL image to uint8 ``[C, H, W]``: the part of :func:`evaluation_transform` before normalization."""
    return v2.Compose([
        v2.Resize(steps["resize"], InterpolationMode(steps["interpolation"])),
        v2.CenterCrop(steps["crop"]),
        v2.PILToTensor(),
    ])  # fmt: skip
