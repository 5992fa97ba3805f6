"""Corruptions of grey images of glyphs, after MNIST-C (Mu and Gilmer 2019).

MNIST-C has one strength; here severity 3 is about that strength, and the others scale it.
"""

from __future__ import annotations

import torch
from skimage.draw import line
from skimage.feature import canny
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import InterpolationMode, affine


def _sign(count: int, generator: Generator) -> list[int]:
    return (2 * torch.randint(2, (count,), generator=generator) - 1).tolist()


def _moved(x: Tensor, angles=0.0, shifts=(0, 0), scale: float = 1.0, shears=0.0) -> Tensor:  # type: ignore[no-untyped-def]
    """Each image by its own affine map; scalars hold for all."""
    n = len(x)
    angles = angles if isinstance(angles, list) else [angles] * n
    shifts = shifts if isinstance(shifts, list) else [shifts] * n
    shears = shears if isinstance(shears, list) else [shears] * n
    mode = InterpolationMode.BILINEAR
    return torch.stack(
        [
            affine(image, a, list(t), scale, [s, 0.0], mode)
            for image, a, t, s in zip(x, angles, shifts, shears, strict=True)
        ]
    )


def rotate(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Rotate by 10 to 50 degrees, to either side."""
    return _moved(x, angles=[10.0 * severity * sign for sign in _sign(len(x), generator)])


def shear(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Slant by 8 to 40 degrees, to either side."""
    return _moved(x, shears=[8.0 * severity * sign for sign in _sign(len(x), generator)])


def scale(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Shrink to 90 % to 50 % of the size."""
    return _moved(x, scale=1 - 0.1 * severity)


def translate(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Move by 4 % to 20 % of the size along both axes, to either side."""
    step = round(0.04 * severity * x.shape[-1])
    horizontal, vertical = _sign(len(x), generator), _sign(len(x), generator)
    return _moved(x, shifts=[(step * h, step * v) for h, v in zip(horizontal, vertical, strict=True)])


def stripe(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Invert a band of columns in the middle, 10 % to 50 % of the width."""
    width = x.shape[-1]
    half = max(round(0.05 * severity * width), 1)
    out = x.clone()
    out[..., width // 2 - half : width // 2 + half] = 1 - x[..., width // 2 - half : width // 2 + half]
    return out


def dotted_line(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Draw 1 to 5 dotted lines from the left border to the right one."""
    return _with_lines(x, severity, generator, zigzags=0)


def zigzag(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Draw 1 to 5 zigzag lines from the left border to the right one."""
    return _with_lines(x, severity, generator, zigzags=4)


def _with_lines(x: Tensor, count: int, generator: Generator, zigzags: int) -> Tensor:
    out = x.clone()
    height, width = x.shape[-2:]
    for image in out:
        for _ in range(count):
            corners = zigzags + 2
            rows = torch.randint(height, (corners,), generator=generator).tolist()
            columns = [round(i * (width - 1) / (corners - 1)) for i in range(corners)]
            for start in range(corners - 1):
                r, c = line(rows[start], columns[start], rows[start + 1], columns[start + 1])
                keep = slice(None) if zigzags else slice(None, None, 2)
                image[:, r[keep], c[keep]] = 1.0
    return out


def canny_edges(x: Tensor, severity: int, generator: Generator) -> Tensor:
    """Only the edges that Canny's detector finds, fainter ones at low severity."""
    sigma = 0.4 + 0.2 * severity
    edges = [[torch.from_numpy(canny(channel.numpy(), sigma)) for channel in image] for image in x]
    return torch.stack([torch.stack(channels) for channels in edges]).float()
