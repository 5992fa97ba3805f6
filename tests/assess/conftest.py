"""A pair of tiny networks that disagree on a known side of a line."""

import pytest
import torch
from torch import Tensor

from quantizable.assess.callables import Pair


def threshold_model(edge: float):  # type: ignore[no-untyped-def]
    """Class 1 where the mean pixel is above ``edge``; differentiable."""

    def model(pixels: Tensor) -> Tensor:
        level = 20 * (pixels.flatten(1).mean(1) - edge)
        return torch.stack((-level, level), 1)

    return model


@pytest.fixture
def planted() -> Pair:
    """Disagrees where the mean pixel is between 0.50 and 0.52, and only there."""
    return Pair(threshold_model(0.50), threshold_model(0.52), "planted")
