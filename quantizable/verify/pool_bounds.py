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
