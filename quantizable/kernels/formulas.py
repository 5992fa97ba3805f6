"""Formulas of single quantizers in loops; the formulas in torch's operations are with the quantizers.

Each is a :class:`quantizable.kernels.one_pass.Loops`. The tensor ``x`` has any shape and fits ``loops_for``;
gradients have its shape and type. What is not named otherwise is float32 and a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from quantizable.kernels.calls import HALF, pointers
from quantizable.kernels.loops import alike, loops_for, rows_and_length


class Clip(NamedTuple):
    """``round(clipped / scale) * scale`` of activations ``x`` and the largest value ``top``, a scalar.

    DoReFa-Net eq. 11 (Zhou et al. 2016, arXiv:1606.06160); PACT (Choi et al. 2018, arXiv:1805.06085) learns
    ``top``.

    Attributes:
        low, high: smallest and largest code.
    """

    low: int
    high: int

    def _ends(self, top: Tensor) -> tuple[float, float]:
        return top.item() * max(-1, min(0, self.low)), top.item()

    def values(self, x: Tensor, top: Tensor) -> tuple[Tensor, ...]:
        found = loops_for(x)
        assert found is not None
        out = torch.empty_like(x)
        scale = (top / self.high).item()
        found.clip(
            HALF[x.dtype], *pointers(x, out), x.numel(), *self._ends(top), scale, torch.get_num_threads()
        )
        return (out,)

    def gradients(self, grad: Tensor, x: Tensor, top: Tensor) -> tuple[Tensor | None, ...] | None:
        found = loops_for(x)
        if found is None or not alike(x, grad):
            return None
        grad_x = torch.empty_like(x)
        above = torch.empty_like(x, dtype=torch.float32) if top.requires_grad else None
        below = None if above is None or self.low == 0 else torch.empty_like(above)
        unusual = found.clip_gradients(
            HALF[x.dtype], *pointers(grad, x, grad_x, above, below), x.numel(), *self._ends(top),
            torch.get_num_threads(),
        )  # fmt: skip
        if above is None:
            return grad_x, None
        if below is None:
            return None if unusual else (grad_x, above.sum())
        return grad_x, above.sum() - below.sum()


class Unit(NamedTuple):
    """Codes of weights squeezed into [0, 1], less a zero point, times a scale.

    DoReFa-Net eq. 9 (Zhou et al. 2016, arXiv:1606.06160) and the roundings of SAT (arXiv:1912.10207) and
    AdaBits (arXiv:1912.09666).

    Attributes:
        steps: what the unit is multiplied with before it is rounded.
        floor: True to round down, and to ``high`` at most; False to the nearest.
        high: largest code.
        grid: scale and zero point, scalars, from the weight and its codes; they carry no gradient.
    """

    steps: float
    floor: bool
    high: int
    grid: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        found = loops_for(x)
        assert found is not None
        tanh = torch.tanh(x.float())
        smallest, greatest = tanh.aminmax()
        largest = torch.maximum(-smallest, greatest)
        twice = 2 * largest.clamp_min(1e-12)
        codes = torch.empty_like(tanh)
        found.unit_codes(
            *pointers(tanh, codes), x.numel(), twice.item(), self.steps, self.floor, self.high,
            torch.get_num_threads(),
        )  # fmt: skip
        scale, zero_point = self.grid(x, codes)
        return codes.sub_(zero_point).mul_(scale).to(x.dtype), tanh, largest, twice, scale

    def gradients(
        self, grad: Tensor, x: Tensor, tanh: Tensor, largest: Tensor, twice: Tensor, scale: Tensor
    ) -> tuple[Tensor | None, ...] | None:
        found = loops_for(x)
        if found is None or not alike(x, grad) or tanh.stride() != x.stride():
            return None
        share, grad_x = torch.empty_like(tanh), torch.empty_like(x)
        numbers = scale.item(), self.steps, twice.item(), largest.item()
        threads = torch.get_num_threads()
        count = found.unit_share(HALF[x.dtype], *pointers(grad, tanh, share), x.numel(), *numbers, threads)
        to_largest = torch.where(largest >= 1e-12, share.sum() * 2, 0) / torch.tensor(count)
        found.unit_gradients(
            HALF[x.dtype], *pointers(grad, tanh, grad_x), x.numel(), *numbers, to_largest.item(), threads
        )
        return (grad_x,)


@cache
def clamp_passes_its_bounds() -> bool:
    """True if torch's clamp gives a value that is one of its bounds a gradient: versions differ."""
    with torch.enable_grad():
        x = torch.ones(1, requires_grad=True)
        return bool(torch.autograd.grad(x.clamp(0, 1), x)[0])


class Nested(NamedTuple):
    """Codes of the highest width rounded to those of a lower one, of a weight and its scale.

    The scale, a step of the highest width, is a scalar or ``[C, 1, ...]``. From Double Rounding (Huang et
    al. 2025, arXiv:2502.01199).

    Attributes:
        shift: step of the lower width in those of the highest.
        lowest, highest: codes of the highest width.
        low, high: codes of the lower one.
    """

    shift: float
    lowest: int
    highest: int
    low: int
    high: int

    def values(self, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        found, rows = loops_for(x), rows_and_length(x, scale)
        assert found is not None
        assert rows is not None
        out, value = torch.empty_like(x), scale * self.shift
        found.nested(
            HALF[x.dtype], *pointers(x, out), *rows, *pointers(scale, value), *self, torch.get_num_threads()
        )
        return (out,)

    def gradients(self, grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor | None, ...] | None:
        found, rows = loops_for(x), rows_and_length(x, scale)
        if found is None or rows is None or not alike(x, grad):
            return None
        grad_x = torch.empty_like(x)
        by_value, by_scale = (torch.empty_like(x, dtype=torch.float32) for _ in range(2))
        value = scale * self.shift
        found.nested_gradients(
            HALF[x.dtype], *pointers(grad, x, grad_x, by_value, by_scale), *rows, *pointers(scale, value),
            *self, clamp_passes_its_bounds(), torch.get_num_threads(),
        )  # fmt: skip
        by_value, by_scale = (part.sum_to_size(scale.shape) for part in (by_value, by_scale))
        return grad_x, by_value * self.shift + by_scale
