"""Weather: Hendrycks and Dietterich, ICLR 2019, with the parameters of CIFAR-10-C.

Two things are drawn here in another way than for the published files: the cloud under fog and frost is a sum
of octaves of smoothed noise, and frost is such a cloud sharpened to crystals where the original overlays
photographs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from skimage.color import hsv2rgb, rgb2hsv
from torch import Generator, Tensor

from quantizable.assess.corruptions.blur import convolve, motion_kernels, smooth, zoom

Shape = tuple[int, int, int]


def cloud(shape: Shape, decay: float, generator: Generator) -> Tensor:
    """Fractal noise ``[N, 1, H, W]`` in [0, 1]; each halving of the scale divides the amplitude by
    ``decay``."""
    n, height, width = shape
    total = torch.zeros(n, 1, height, width)
    octaves = max(int(math.log2(max(height, width))), 1)
    for octave in range(octaves + 1):
        points = torch.rand(n, 1, 2**octave + 1, 2**octave + 1, generator=generator)
        total += F.interpolate(points, (height, width), mode="bilinear", align_corners=True) / decay**octave
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp_min(1e-12)


def _shape(x: Tensor) -> Shape:
    return len(x), x.shape[2], x.shape[3]


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)


def fog(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add a cloud and keep the range."""
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    top = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * cloud(_shape(x), decay, generator)) * top / (top + amount)


def frost(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Lay ice crystals over the image."""
    keep, amount = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ridges = (
        1 - (2 * cloud(_shape(x), 1.3, generator) - 1).abs()
    )  # crystals grow along the cloud's middle level
    return keep * x + amount * ridges**2


def snow(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Falling flakes, and a whitened image behind them."""
    mean, std, scale, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    n, height, width = _shape(x)
    flakes = zoom(mean + std * torch.randn(n, 1, height, width, generator=generator), scale)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    angles = -math.pi * (
        0.25 + 0.5 * torch.rand(n, generator=generator)
    )  # falling, 45 degrees to either side
    flakes = convolve(flakes, motion_kernels(angles, int(radius), sigma))
    whitened = keep * x + (1 - keep) * torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return whitened + flakes + flakes.flip(-1, -2)


def spatter(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Drops of water (severities 1 to 3) or mud (4, 5) on the lens."""
    mean, std, sigma, threshold, strength = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1.0, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    n, height, width = _shape(x)
    liquid = smooth(mean + std * torch.randn(n, 1, height, width, generator=generator), sigma)
    drops = (liquid > threshold).float()
    if severity <= 3:
        shine = smooth(drops, 0.5) * liquid
        shine = strength * shine / shine.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        return x + shine * _color(x, (175, 238, 238))
    cover = smooth(drops, strength)
    cover = cover.masked_fill(cover < 0.8, 0.0)
    return x * (1 - cover) + cover * _color(x, (63, 42, 20))


def _color(x: Tensor, rgb: tuple[int, int, int]) -> Tensor:
    color = x.new_tensor(rgb).view(3, 1, 1) / 255
    return color if x.shape[1] == 3 else color.mean().view(1, 1, 1)


def brightness(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add to the value of HSV (to every channel, if there are not three)."""
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    return with_hsv(x, 2, lambda value: value + amount) if x.shape[1] == 3 else x + amount


def with_hsv(x: Tensor, channel: int, change) -> Tensor:  # type: ignore[no-untyped-def]
    """RGB ``[N, 3, H, W]`` with one channel of its HSV form changed by a function of arrays.

    Raises:
        ValueError: the images are not RGB.
    """
    if x.shape[1] != 3:
        raise ValueError(f"hue and saturation are those of RGB images, these have {x.shape[1]} channels")
    hsv = rgb2hsv(x.numpy(), channel_axis=1)
    hsv[:, channel] = change(hsv[:, channel]).clip(0, 1)
    return torch.from_numpy(hsv2rgb(hsv, channel_axis=1)).float()
