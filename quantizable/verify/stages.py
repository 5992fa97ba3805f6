"""The few operations a verified network is made of.

A network is a list of stages (:mod:`quantizable.verify.graph`). Everything linear is an
:class:`Affine` stage: it maps ``x`` to ``A x + bias`` and knows three more things that bounds
need: its adjoint ``A^T``, the stage of ``|A|``, and the stage of the difference of two
matrices. An :class:`Activation` rounds to a grid, then clamps; both are monotone, which is all that
its bounds use. Smooth functions, max pooling and what only moves values have files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizable.verify.curves import Curve
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import Concat, Rearranging

INFINITY = float("inf")


class Affine(Protocol):
    """``x -> A x + bias``; ``x`` is ``(batch, *in_shape)``, in float64."""

    @property
    def offset(self) -> Tensor:
        """The bias, broadcastable to ``(batch, *out_shape)``."""

    @property
    def entries(self) -> Tensor:
        """All entries of ``A``, each at least once."""

    def multiply(self, x: Tensor) -> Tensor:
        """``A x``: ``(batch, *in_shape)`` to ``(batch, *out_shape)``."""

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        """``A^T y``: ``(batch, *out_shape)`` to ``(batch, *in_shape)``."""

    def absolute(self) -> Affine:
        """The stage with ``|A|`` and ``|bias|`` (of a sum, the sum of absolute values)."""

    def minus(self, other: Affine) -> Affine:
        """The stage with ``A - A_other`` and ``bias - bias_other``."""


@dataclass(frozen=True)
class Linear:
    """Fully connected layer, on the last axis: ``weight`` (out, in), ``bias`` (out,).

    Attributes:
        bias_size: of a bias that is a sum, as of a layer and its norm, the sum of the absolute values, which
            its rounding errors are relative to; None: of the bias itself. The same for all three stages.
        codes: the weights of each output are integers times a scale, as an engine multiplies them.
    """

    weight: Tensor
    bias: Tensor
    bias_size: Tensor | None = None
    codes: bool = False

    @property
    def offset(self) -> Tensor:
        return self.bias

    @property
    def entries(self) -> Tensor:
        return self.weight

    def multiply(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        return y @ self.weight

    def absolute(self) -> Linear:
        return replace(self, weight=self.weight.abs(), bias=largest_bias(self))

    def minus(self, other: Affine) -> Linear:
        assert isinstance(other, Linear)
        return replace(self, weight=self.weight - other.weight, bias=self.bias - other.bias, bias_size=None)


@dataclass(frozen=True)
class Conv2d:
    """2-D convolution with zero padding: ``weight`` (out, in/groups, kh, kw), ``bias`` (out,).

    Average pooling is the convolution with ``groups = channels`` and constant weights.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias_size: Tensor | None = None
    codes: bool = False

    @property
    def offset(self) -> Tensor:
        return self.bias.reshape(-1, 1, 1)

    @property
    def entries(self) -> Tensor:
        return self.weight

    def multiply(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        rows, columns = self.padding
        spread = self.spread(y)
        height, width = spread.shape[-2:]
        return F.pad(spread, (-columns, in_shape[2] + columns - width, -rows, in_shape[1] + rows - height))

    def spread(self, y: Tensor) -> Tensor:
        """``A^T y`` with all pixels that the kernel reaches, those in the padding too.

        One matrix product for each pixel of the kernel, with channels last: two to four times as quick in
        float64 as torch's transposed convolution.
        """
        count, _, height, width = y.shape
        (down, right), (dy, dx), (kh, kw) = self.stride, self.dilation, self.weight.shape[-2:]
        ins = self.weight.shape[1]
        grouped = y.permute(0, 2, 3, 1).reshape(-1, self.groups, y.shape[1] // self.groups).transpose(0, 1)
        kernel = self.weight.reshape(self.groups, -1, ins, kh, kw)
        size = ((height - 1) * down + dy * (kh - 1) + 1, (width - 1) * right + dx * (kw - 1) + 1)
        result = y.new_zeros(count, *size, self.groups * ins)
        for i in range(kh):
            for j in range(kw):
                part = (grouped @ kernel[..., i, j]).transpose(0, 1).reshape(count, height, width, -1)
                bottom, end = i * dy + (height - 1) * down + 1, j * dx + (width - 1) * right + 1
                result[:, i * dy : bottom : down, j * dx : end : right] += part
        return result.permute(0, 3, 1, 2)

    def absolute(self) -> Conv2d:
        return replace(self, weight=self.weight.abs(), bias=largest_bias(self))

    def minus(self, other: Affine) -> Conv2d:
        assert isinstance(other, Conv2d)
        return replace(self, weight=self.weight - other.weight, bias=self.bias - other.bias, bias_size=None)


@dataclass(frozen=True)
class Scale:
    """Elementwise ``factor * x + bias`` (a normalization, or the units of the input).

    Both broadcast against ``in_shape``.
    """

    factor: Tensor
    bias: Tensor
    bias_size: Tensor | None = None

    @property
    def offset(self) -> Tensor:
        return self.bias

    @property
    def entries(self) -> Tensor:
        return self.factor

    def multiply(self, x: Tensor) -> Tensor:
        return x * self.factor

    def adjoint(self, y: Tensor, in_shape: torch.Size) -> Tensor:
        return y * self.factor

    def absolute(self) -> Scale:
        return Scale(self.factor.abs(), largest_bias(self))

    def minus(self, other: Affine) -> Scale:
        assert isinstance(other, Scale)
        return Scale(self.factor - other.factor, self.bias - other.bias)


def largest_bias(stage: Linear | Conv2d | Scale) -> Tensor:
    """What the rounding errors of a bias are relative to, in its shape."""
    return stage.bias.abs() if stage.bias_size is None else stage.bias_size


@dataclass(frozen=True)
class Add:
    """Sum of two values of one shape (a residual connection)."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@dataclass(frozen=True)
class Activation:
    """``clamp(round_to_grid(x), low, high)``.

    Attributes:
        step: distance of the grid points; 0 means no rounding.
        low, high: clamp limits, ``-inf`` and ``inf`` for none. ReLU is ``low=0``; where
            ``step > 0`` finite limits are grid points.
        half_even: how a tie is rounded: to the even code (torch), else upwards
            (``floor(x + 1/2)``, QEBVerif).
        zero_point: grid points are ``(code - zero_point) * step``; any real number.
        snap: bounds use that a rounded value is a grid point, which is tighter; False keeps
            ``x +- step/2``, as the paper's worked example does.
    """

    step: float = 0.0
    low: float = -INFINITY
    high: float = INFINITY
    half_even: bool = True
    zero_point: float = 0.0
    snap: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.clamp(self.round(x))

    def round(self, x: Tensor) -> Tensor:
        """Nearest grid point."""
        if self.step == 0:
            return x
        code = x / self.step + self.zero_point
        return self.value((code + 0.5).floor() if not self.half_even else code.round())

    def value(self, code: Tensor) -> Tensor:
        """The grid point of an integer code."""
        return (code - self.zero_point) * self.step

    def clamp(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    @property
    def is_identity(self) -> bool:
        return self.step == 0 and self.low == -INFINITY and self.high == INFINITY

    def after(self, first: Activation) -> Activation:
        """The single stage that equals ``first``, then this one.

        ``first`` must not round. A monotone rounding commutes with a clamp:
        ``round(clamp(x, a, b)) = clamp(round(x), round(a), round(b))``.
        """
        assert first.step == 0
        low, high = (
            float(self(torch.tensor(limit, dtype=torch.float64))) for limit in (first.low, first.high)
        )
        return replace(self, low=low, high=high)


Stage = Linear | Conv2d | Scale | Rearranging | Concat | Add | Activation | Curve | MaxPool2d
