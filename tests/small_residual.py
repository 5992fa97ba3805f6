"""A small network of residual blocks: one with an identity, one with a convolution on the shortcut."""

import torch
from torch import Tensor, nn

import quantizable
from quantizable.network import QuantizableNetwork
from tests.small_net import trained_like

SIZE = (3, 8, 8)


class Block(nn.Module):
    """Two convolutions, the shortcut added before the last ReLU."""

    def __init__(self, given: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = None
        if given != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(given, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        x += shortcut
        return x.relu()


class ResidualNet(nn.Module):
    """A stem, two residual blocks, a convolution that reads the last sum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Block(6, 6), Block(6, 8))
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.blocks(self.norm(self.stem(x)).relu()))
        return self.head(x.relu().mean((2, 3)))


def residual_network(bits: tuple = (2, 4, 8, 32), **options: object) -> QuantizableNetwork:
    """A calibrated one: ``residual_network(bits=(4, 8), residual=8)``."""
    network = quantizable.quantize(trained_like(ResidualNet()), bits, **{"residual": 8, **options})
    network.calibrate([torch.randn(16, *SIZE)])
    network.info = {
        "in_chans": 3,
        "image_size": 8,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "class_names": [*"abcde"],
    }
    return network.eval()
