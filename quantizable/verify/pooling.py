"""Max pooling as a stage."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MaxPool2d:
    """The largest value of each window of ``(batch, channels, height, width)``; padding never wins."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)

    def __call__(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)

    def windows(self, x: Tensor, outside: float) -> Tensor:
        """The values of each window, ``(batch, channels, height, width, window)``."""
        (rows, columns), (down, right) = self.padding, self.stride
        x = F.pad(x, (columns, columns, rows, rows), value=outside)
        return x.unfold(2, self.kernel[0], down).unfold(3, self.kernel[1], right).flatten(4)
