"""Natural distortions of photographs, mild enough that a person's answer stays the same."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import InterpolationMode, affine

from quantizable.assess.corruptions.blur import smooth
from quantizable.assess.relations.relation import Relation, Relations


def brightness(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Add p[0] to every value."""
    return x + p[0]


def contrast(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Stretch the differences from each image's mean p[0] times."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * p[0] + mean


def blur(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Gaussian blur of p[0] pixels."""
    return smooth(x, p[0])


def noise(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Normal noise of standard deviation p[0], one pattern for the batch."""
    return x + p[0] * torch.randn(x.shape[1:], generator=generator)


def placement(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Rotate by p[0] degrees, move by p[1] and p[2] of the size, scale by p[3]."""
    height, width = x.shape[-2:]
    shift = [round(p[1] * width), round(p[2] * height)]
    return affine(x, p[0], shift, p[3], [0.0, 0.0], InterpolationMode.BILINEAR)


def occlusion(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """A grey square at (p[0], p[1]) of the size, p[2] of the size wide."""
    height, width = x.shape[-2:]
    top, left, side = int(p[0] * height), int(p[1] * width), max(round(p[2] * width), 1)
    out = x.clone()
    out[..., top : top + side, left : left + side] = 0.5
    return out


def channel_dropout(x: Tensor, p: list[float], generator: Generator) -> Tensor:
    """Dim one channel, the p[0]-th, to p[1] of its values."""
    out = x.clone()
    channel = min(int(p[0] * x.shape[1]), x.shape[1] - 1)
    out[:, channel] *= p[1]
    return out


NATURAL = Relations(
    (
        Relation(brightness, ((-0.2, 0.2),)),
        Relation(contrast, ((0.6, 1.4),)),
        Relation(blur, ((0.0, 1.0),)),
        Relation(noise, ((0.0, 0.1),)),
        Relation(placement, ((-15, 15), (-0.1, 0.1), (-0.1, 0.1), (0.8, 1.25))),
        Relation(occlusion, ((0, 1), (0, 1), (0.05, 0.2))),
        Relation(channel_dropout, ((0, 1), (0.5, 1.0))),
    )
)
