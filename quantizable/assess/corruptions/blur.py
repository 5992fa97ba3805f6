"""Blur: Hendrycks and Dietterich, ICLR 2019, with the parameters of CIFAR-10-C."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over the last two axes; ``sigma`` in pixels."""
    return torch.from_numpy(gaussian_filter(x.numpy(), sigma, mode="nearest", axes=(-2, -1)))


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Each image of ``[N, C, H, W]`` with its own kernel ``[N, k, k]``, k odd; borders are repeated."""
    n, c, h, w = x.shape
    half = kernels.shape[-1] // 2
    padded = F.pad(x, [half] * 4, mode="replicate").reshape(1, n * c, h + 2 * half, w + 2 * half)
    weight = kernels.repeat_interleave(c, 0)[:, None]
    return F.conv2d(padded, weight, groups=n * c).view(n, c, h, w)


def gaussian_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur by a Gaussian."""
    return smooth(x, (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def defocus_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur by a disk with a softened edge."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    line = torch.arange(-4.0, 5.0)
    disk = (line[:, None] ** 2 + line**2 <= radius**2).float()
    disk = smooth(disk, soft)
    return convolve(x, (disk / disk.sum()).expand(len(x), -1, -1))


def glass_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur, swap pixels with near ones, blur again."""
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    x = smooth(x, sigma)
    n, _, height, width = x.shape
    image = torch.arange(n)
    for _ in range(rounds):
        for row in range(height - reach - 1, reach - 1, -1):
            for column in range(width - reach - 1, reach - 1, -1):
                step = torch.randint(-reach, reach + 1, (2, n), generator=generator)
                other_row, other_column = row + step[0], column + step[1]
                here, there = x[:, :, row, column].clone(), x[image, :, other_row, other_column].clone()
                x[:, :, row, column], x[image, :, other_row, other_column] = there, here
    return smooth(x, sigma)


def motion_kernels(angles: Tensor, radius: int, sigma: float) -> Tensor:
    """Half a Gaussian of standard deviation ``sigma`` pixels drawn along each angle (radians): ``[N, k,
    k]``."""
    offsets = torch.arange(2 * radius + 1)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    rows = (radius * 2 + (offsets * angles[:, None].sin()).round()).long()
    columns = (radius * 2 + (offsets * angles[:, None].cos()).round()).long()
    size = 4 * radius + 1
    flat = torch.zeros(len(angles), size * size)
    flat.scatter_add_(1, rows * size + columns, weights.expand(len(angles), -1))
    return (flat / weights.sum()).view(-1, size, size)


def motion_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur along a line of random direction, at most 45 degrees from the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    angles = (torch.rand(len(x), generator=generator) - 0.5) * math.pi / 2
    return convolve(x, motion_kernels(angles, radius, sigma))


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of the images ``factor`` times, at least 1."""
    height, width = x.shape[-2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = x[..., top : top + rows, left : left + columns]
    return F.interpolate(middle, (height, width), mode="bilinear", align_corners=True)


def zoom_blur(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average of the image and of its enlargements by steps of 1 %."""
    steps = (6, 11, 16, 21, 26)[severity - 1]
    return (x + sum(zoom(x, 1 + 0.01 * step) for step in range(steps))) / (steps + 1)
