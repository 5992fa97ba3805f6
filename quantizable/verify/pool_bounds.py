"""Max pooling: its linear bounds, and its difference between two networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizable.verify.interval import Interval
from quantizable.verify.pooling import MaxPool2d


class Pick(NamedTuple):
    """Linear bounds of max pooling: below by one input of each window, above by it or by a constant.

    Attributes:
        at: the input with the largest lower bound, as an index into its flattened image.
        only: no other input of the window can be larger, so it is the result.
        high: the largest upper bound in the window.
    """

    at: Tensor
    only: Tensor
    high: Tensor

    def upper(self, a: Tensor, in_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Coefficients of the pooled values as coefficients of the input, for an upper bound.

        Args:
            a: ``(batch or 1, rows, *out_shape)``.

        Returns:
            Coefficients ``(batch, rows, *in_shape)`` and constants ``(batch, rows)``.
        """
        up = a.clamp(min=0)
        picked = torch.where(self.only[:, None], a, a.clamp(max=0))
        constant = (up * self.high.masked_fill(self.only, 0.0)[:, None]).flatten(2).sum(2)
        batch, rows, channels = picked.shape[:3]
        index = self.at.flatten(2)[:, None].expand(batch, rows, channels, -1)
        plane = a.new_zeros(batch, rows, channels, in_shape[1] * in_shape[2])
        plane = plane.scatter_add(3, index, picked.flatten(3))
        return plane.reshape(batch, rows, *in_shape), constant


def relax_pool(stage: MaxPool2d, x: Interval) -> Pick:
    """Linear bounds over ``x`` (DeepPoly, Singh et al., POPL 2019, section 4.4)."""
    low, index = F.max_pool2d(x.low, stage.kernel, stage.stride, stage.padding, return_indices=True)
    places = torch.arange(x.low[0, 0].numel(), dtype=torch.float64).reshape(1, 1, *x.low.shape[2:])
    is_picked = stage.windows(places, -1.0) == index[..., None]
    others = stage.windows(x.high, -torch.inf).masked_fill(is_picked, -torch.inf).amax(-1)
    return Pick(index, others <= low, stage(x.high))


def pool_difference(stage: MaxPool2d, difference: Interval, x1: Interval, x2: Interval) -> Interval:
    """Interval of ``max(x2) - max(x1)`` over each window.

    If ``x2`` is largest at ``i``, then ``max(x2) - max(x1) <= x2_i - x1_i``: the difference is at most that
    of an input that can be the largest of the second network, and at least that of one of the first.
    """

    def can_win(x: Interval) -> Tensor:
        return stage.windows(x.high, -torch.inf) >= stage(x.low)[..., None]

    high = stage.windows(difference.high, -torch.inf).masked_fill(~can_win(x2), -torch.inf)
    low = stage.windows(difference.low, torch.inf).masked_fill(~can_win(x1), torch.inf)
    return Interval(low.amin(-1), high.amax(-1))
