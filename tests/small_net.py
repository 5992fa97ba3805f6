"""A small network with all that deployment has to keep: skip, concatenation, pooling, groups, norms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.network import QuantizableNetwork

SIZE = (3, 10, 10)


class SmallNet(nn.Module):
    """Stem, residual block, depthwise convolution, concatenation, average pooling, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(6)
        self.block = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.block_norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=6)
        self.depthwise_norm = nn.BatchNorm2d(6)
        self.point = nn.Conv2d(6, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.block_norm(self.block(x))).relu()
        x = self.depthwise_norm(self.depthwise(x)).relu()
        x = torch.cat([x, self.point(x).relu()], 1)
        return self.head(self.pool(x).flatten(1))


def trained_like(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights other than the initial ones, one of them negative."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
            nn.init.uniform_(norm.running_var, 0.2, 1.0)
            nn.init.normal_(norm.running_mean, 0, 0.2)
            norm.weight.data[0] *= -1
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(16, *SIZE)


@pytest.fixture
def make(images: Tensor) -> Callable[..., QuantizableNetwork]:
    """A calibrated small network: ``make("lsq", bits=[2, 4, 8])``."""

    def build(quantizer: str = "lsq", bits: tuple = (2, 4, 8), **options: object) -> QuantizableNetwork:
        network = quantizable.quantize(trained_like(SmallNet()), bits, quantizer, **options)
        network.calibrate([images])
        network.info = {
            "in_chans": 3, "image_size": 10, "mean": [0.5] * 3, "std": [0.25] * 3,
            "class_names": ["ant", "bee", "cat", "dog", "eel"],
        }  # fmt: skip
        return network.eval()

    return build
