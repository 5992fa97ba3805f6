"""What a changed input may be: near its seed in the maximum norm, or by its signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

ROUNDING = 1e-6  # of float32 pixels in [0, 1]


def psnr(changed: Tensor, seeds: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each of ``[N, ...]`` pixels in [0, 1]; infinite for equal
    inputs."""
    return -10 * (changed - seeds).square().flatten(1).mean(1).log10()


class Constraint(Protocol):
    """Which inputs count; always pixels in [0, 1] and measured from the seed."""

    @property
    def radius(self) -> float:
        """The change per pixel, if all pixels change equally, at which the limit is reached."""

    def project(self, changed: Tensor, seeds: Tensor) -> Tensor:
        """The inputs ``[N, ...]`` pulled back to where they are allowed."""

    def allows(self, changed: Tensor, seeds: Tensor) -> Tensor:
        """Mask ``[N]``."""


def in_range(pixels: Tensor) -> Tensor:
    """Mask ``[N]`` of finite inputs in [0, 1]."""
    return ((pixels >= 0) & (pixels <= 1)).flatten(1).all(1)


@dataclass(frozen=True)
class LInf:
    """No pixel differs by more than ``eps`` (in (0, 1], for example 8/255).

    Raises:
        ValueError: ``eps`` out of range.
    """

    eps: float

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise ValueError(f"the L-infinity limit {self.eps} is impossible; give more than 0 and at most 1")

    @property
    def radius(self) -> float:
        return self.eps

    def project(self, changed: Tensor, seeds: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(changed, seeds - self.eps), seeds + self.eps).clamp(0, 1)

    def allows(self, changed: Tensor, seeds: Tensor) -> Tensor:
        near = ((changed - seeds).abs() <= self.eps + ROUNDING).flatten(1).all(1)
        return near & in_range(changed)

    def __str__(self) -> str:
        return f"L-infinity at most {self.eps * 255:.3g}/255"


@dataclass(frozen=True)
class Psnr:
    """A signal-to-noise ratio of at least ``decibel`` (in (0, 100]; DiverGet uses 20).

    Raises:
        ValueError: ``decibel`` out of range; 100 dB are a change of 1/100 000 per pixel, beyond which
            rounding decides.
    """

    decibel: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.decibel <= 100:
            raise ValueError(
                f"a PSNR of {self.decibel} dB is impossible to search under; give more than 0 and at most 100"
            )

    @property
    def radius(self) -> float:
        return 10 ** (-self.decibel / 20)

    def project(self, changed: Tensor, seeds: Tensor) -> Tensor:
        change = changed.clamp(0, 1) - seeds
        size = change.square().flatten(1).mean(1).sqrt().clamp_min(1e-12)
        # a hair inside, so that rounding leaves it inside
        factor = (self.radius * (1 - 1e-5) / size).clamp(max=1).view(-1, *[1] * (seeds.ndim - 1))
        return (seeds + factor * change).clamp(0, 1)

    def allows(self, changed: Tensor, seeds: Tensor) -> Tensor:
        return (psnr(changed, seeds) >= self.decibel) & in_range(changed)

    def __str__(self) -> str:
        return f"PSNR at least {self.decibel:g} dB"
