"""Smooth elementwise functions (GELU, sigmoid, ...): what their bounds need to know of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Function:
    """What the bounds need to know of a function.

    Attributes:
        value, slope: ``f`` and ``f'``.
        curvature: an upper bound of ``|f''|`` wherever it exists.
        valley: where ``f`` is smallest: it falls before and grows after; ``-inf`` if it only grows.
        jumps: points where the slope jumps, with the slopes on their left and right.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: float
    valley: float = -math.inf
    jumps: tuple[tuple[float, float, float], ...] = ()


def _normal_density(x: Tensor) -> Tensor:
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    t = torch.tanh(ROOT * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t * t) / 2 * ROOT * (1 + 3 * 0.044715 * x * x)


FUNCTIONS = {
    # the largest |f''|: 1 / (6 sqrt 3) and 4 / (3 sqrt 3)
    "sigmoid": Function(torch.sigmoid, _sigmoid_slope, 0.0963),
    "tanh": Function(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, 0.77),
    # f'' = density(x) (2 - x^2) is largest at 0
    "gelu": Function(
        F.gelu, lambda x: torch.special.ndtr(x) + x * _normal_density(x), 0.798, -0.7517915246935645
    ),
    "gelu_tanh": Function(
        lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope, 0.81, -0.7524614220710162
    ),
    "silu": Function(F.silu, lambda x: torch.sigmoid(x) + x * _sigmoid_slope(x), 0.5001, -1.2784645427610738),
    "hardswish": Function(
        F.hardswish,
        lambda x: torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, x / 3 + 0.5)),
        1 / 3 + 1e-9,
        -1.5,
        ((-3.0, 0.0, -0.5), (3.0, 1.5, 1.0)),
    ),
    "hardsigmoid": Function(
        F.hardsigmoid,
        lambda x: (x.abs() < 3).to(x.dtype) / 6,
        0.0,
        jumps=((-3.0, 0.0, 1 / 6), (3.0, 1 / 6, 0.0)),
    ),
}


@dataclass(frozen=True)
class Curve:
    """A smooth activation: a name of :data:`FUNCTIONS`, or ``"leaky_relu"`` with its slope below 0.

    Attributes:
        name: the function's.
        negative: the slope of ``leaky_relu`` below 0, from 0 to 1.
    """

    name: str
    negative: float = 0.0

    @property
    def function(self) -> Function:
        if self.name != "leaky_relu":
            return FUNCTIONS[self.name]
        a = self.negative
        return Function(
            lambda x: F.leaky_relu(x, a),
            lambda x: 1 - (1 - a) * (x < 0).to(x.dtype),
            0.0,
            jumps=((0.0, a, 1.0),),
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.function.value(x)
