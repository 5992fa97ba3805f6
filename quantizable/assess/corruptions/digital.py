"""Digital: Hendrycks and Dietterich, ICLR 2019, with the parameters of CIFAR-10-C."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import jpeg

from quantizable.assess.corruptions.blur import smooth
from quantizable.assess.corruptions.weather import with_hsv


def contrast(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Shrink the differences from each channel's mean."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def saturate(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Change the saturation of HSV: paler at severities 1 and 2, stronger from 3 on."""
    factor, offset = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    return with_hsv(x, 1, lambda saturation: saturation * factor + offset)


def pixelate(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average over larger pixels and enlarge again."""
    factor = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    size = x.shape[-2:]
    small = F.interpolate(x, [max(int(side * factor), 1) for side in size], mode="area")
    return F.interpolate(small, size, mode="nearest")


def jpeg_compression(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Compress and decompress."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    coded = [jpeg((image * 255).round().to(torch.uint8), quality) for image in x]
    return torch.stack(coded).float() / 255


def elastic_transform(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """A random affine map, then a smooth random displacement; shares of the image's size."""
    strength, sigma, affine = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    n, _, height, width = x.shape
    # three corners of a centered square, a third of the image from the middle, move at random
    corners = torch.tensor([[2 / 3, 2 / 3, 1.0], [2 / 3, -2 / 3, 1.0], [-2 / 3, -2 / 3, 1.0]])
    moved = corners[:, :2] + 2 * affine * (2 * torch.rand(n, 3, 2, generator=generator) - 1)
    theta = torch.linalg.solve(corners.expand(n, 3, 3), moved).mT  # maps the corners to where they moved
    grid = F.affine_grid(theta.contiguous(), list(x.shape), align_corners=False)
    if strength:
        noise = 2 * torch.rand(n, 2, height, width, generator=generator) - 1
        grid = grid + 2 * strength * smooth(noise, sigma * height).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
