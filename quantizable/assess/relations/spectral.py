"""Faults of a hyperspectral sensor: the relations of DiverGet (Yahmed et al. 2022), with its ranges.

Shares are of lines (columns of the patch), bands (channels) or pixels; at least one is hit.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import InterpolationMode, affine

from quantizable.assess.relations.relation import Relation, Relations


def _some(count: int, share: float, generator: Generator) -> Tensor:
    """Indices of a share of ``range(count)``, at random, at least one."""
    return torch.randperm(count, generator=generator)[: max(round(share * count), 1)]


def _affine(x: Tensor, angle: float, zoom: float) -> Tensor:
    return affine(x, angle, [0, 0], zoom, [0.0, 0.0], InterpolationMode.BILINEAR)


def rotation(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Rotate by p[0] degrees about the center; the corners become black."""
    return _affine(x, p[0], 1.0)


def zoom(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Scale by p[0] about the center; what lies outside is black."""
    return _affine(x, 0.0, p[0])


def line_dropout(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """A share p[0] of the lines, in a share p[1] of the bands, is dead (p[2] below 1/2) or saturated."""
    return _drop(x, p[0], p[1], 1.0, p[2], generator)


def broken_line_dropout(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """As ``line_dropout``, but only a share p[2] of each line's pixels is lost; p[3] chooses dead or
    saturated."""
    return _drop(x, p[0], p[1], p[2], p[3], generator)


def _drop(
    x: Tensor, lines: float, bands: float, along: float, saturated: float, generator: Generator
) -> Tensor:
    _, channels, height, width = x.shape
    columns, hit = _some(width, lines, generator), _some(channels, bands, generator)
    rows = _some(height, along, generator)
    out = x.clone()
    out[:, hit[:, None, None], rows[:, None], columns] = float(saturated >= 0.5)
    return out


def line_striping(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """One line's gain and offset are off: ``s / sigma * (x - mu) + mu + m``, mu and sigma being its own mean
    and deviation.

    m = p[0] and s = p[1] are in units of a hundredth of the range, so that the published 0 to 5 fit pixels in
    [0, 1]. Published without the ``+ mu``, with which a line would end at m, near black.
    """
    column = _some(x.shape[-1], 0.0, generator)
    line = x[..., column]
    mu, sigma = line.mean((2, 3), keepdim=True), line.std((2, 3), keepdim=True).clamp_min(1e-6)
    out = x.clone()
    out[..., column] = p[1] / 100 / sigma * (line - mu) + mu + p[0] / 100
    return out


def region_dropout(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """A rectangle of up to 5 x 5 pixels at (p[0], p[1]) of the size, p[2] x p[3] pixels, is dead in all
    bands."""
    height, width = x.shape[-2:]
    top, left = int(p[0] * (height - 1)), int(p[1] * (width - 1))
    out = x.clone()
    out[..., top : top + max(round(p[2]), 1), left : left + max(round(p[3]), 1)] = 0.0
    return out


def band_loss(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """A share p[0] of the bands is lost and filled with the mean of its two neighbors."""
    lost = _some(x.shape[1], p[0], generator)
    before, after = (lost - 1).clamp(min=0), (lost + 1).clamp(max=x.shape[1] - 1)
    out = x.clone()
    out[:, lost] = (x[:, before] + x[:, after]) / 2
    return out


def salt_and_pepper(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """A share p[0] of the values becomes dead or saturated."""
    draw = torch.rand(x.shape[1:], generator=generator)
    return torch.where(draw < p[0] / 2, 0.0, torch.where(draw > 1 - p[0] / 2, 1.0, x))


def gaussian_pixels(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Normal noise of standard deviation p[1] on a share p[0] of the pixels, in all bands."""
    hit = torch.rand(x.shape[-2:], generator=generator) < p[0]
    return x + hit * p[1] * torch.randn(x.shape[1:], generator=generator)


def gaussian_bands(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Normal noise of standard deviation p[1] on a share p[0] of the bands, at all pixels."""
    hit = _some(x.shape[1], p[0], generator)
    out = x.clone()
    out[:, hit] = x[:, hit] + p[1] * torch.randn(x[0, hit].shape, generator=generator)
    return out


SPECTRAL = Relations(
    (
        Relation(rotation, ((0, 360),)),
        Relation(zoom, ((0.3, 5),)),
        Relation(line_dropout, ((0, 0.2), (0, 0.2), (0, 1))),
        Relation(broken_line_dropout, ((0, 0.2), (0, 0.2), (0.5, 1), (0, 1))),
        Relation(line_striping, ((0, 5), (0.1, 5))),
        Relation(region_dropout, ((0, 1), (0, 1), (1, 5), (1, 5))),
        Relation(band_loss, ((0, 0.5),)),
        Relation(salt_and_pepper, ((0, 0.07),)),
        Relation(gaussian_pixels, ((0, 0.07), (0, 0.5))),
        Relation(gaussian_bands, ((0, 0.07), (0, 0.5))),
    )
)
