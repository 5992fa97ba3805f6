"""Common corruptions at five severities, made from clean images when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from torch import Generator, Tensor

from quantizable.assess.corruptions import blur, digital, grey, noise, weather
from quantizable.interface.errors import unknown
from quantizable.seeds import generator as seeded_generator

Corruption = Callable[[Tensor, int, Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)

COMMON: dict[str, Corruption] = {
    c.__name__: c
    for c in (
        *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
        *(blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur),
        *(weather.snow, weather.frost, weather.fog, weather.brightness),
        *(digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression),
        *(noise.speckle_noise, blur.gaussian_blur, weather.spatter, digital.saturate),
    )
}
"""The 15 corruptions of CIFAR-10-C, then its 4 extra ones."""

GREY: dict[str, Corruption] = {
    c.__name__: c
    for c in (
        *(noise.shot_noise, noise.impulse_noise, blur.glass_blur, blur.motion_blur),
        *(grey.shear, grey.scale, grey.rotate, weather.brightness, grey.translate, grey.stripe),
        *(weather.fog, weather.spatter, grey.dotted_line, grey.zigzag, grey.canny_edges),
    )
}
"""The 15 corruptions of MNIST-C."""

CORRUPTIONS = {**COMMON, **GREY}


def suite(channels: int) -> dict[str, Corruption]:
    """The corruptions that suit images of so many channels: CIFAR-10-C's for 3, else MNIST-C's for 1.

    Raises:
        ValueError: other numbers of channels have no common corruptions.
    """
    if channels not in (1, 3):
        raise ValueError(f"common corruptions are for grey or RGB images, these have {channels} channels")
    return COMMON if channels == 3 else GREY


def corrupt(pixels: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupted images, in 256 levels like the published files; the same for the same seed.

    Args:
        pixels: float32 ``[N, C, H, W]`` in [0, 1].
        name: a key of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: at least 0.

    Raises:
        ValueError: unknown name, or a severity out of range.
    """
    if name not in CORRUPTIONS:
        raise ValueError(unknown("corruption", name, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is out of range; choose from 1 to 5")
    source = seeded_generator(seed, crc32(name.encode()), severity)
    changed = CORRUPTIONS[name](pixels.clone(), severity, source)
    return (changed.clamp(0, 1) * 255).round() / 255
