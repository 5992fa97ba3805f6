"""Noise: Hendrycks and Dietterich, ICLR 2019, with the parameters of CIFAR-10-C.

Every corruption here and in the neighboring files maps pixels ``[N, C, H, W]`` in [0, 1], a severity from 1
to 5 and a generator to pixels of the same shape.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def gaussian_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add normal noise."""
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + sigma * torch.randn(x.shape, generator=generator)


def shot_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Count photons: Poisson noise at this many per pixel."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return torch.poisson(x * photons, generator=generator) / photons


def impulse_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Set a share of the values to black or white."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    draw = torch.rand(x.shape, generator=generator)
    return x.masked_fill(draw < amount / 2, 0.0).masked_fill(draw > 1 - amount / 2, 1.0)


def speckle_noise(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Multiply by normal noise around 1."""
    sigma = (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1]
    return x + x * sigma * torch.randn(x.shape, generator=generator)
