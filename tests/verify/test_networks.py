"""Convolutional networks as people build them: every mode becomes stages, and gets bounds."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenetv2 import InvertedResidual

import quantizable
from quantizable.verify import Box, difference_bounds, mode_difference_bounds, reach
from quantizable.verify.trace import graph_of
from tests.verify.conftest import sample

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "cifar10_resnet20.qz"


class LeNet5(nn.Module):
    """As it is written most often: functions in ``forward``."""

    def __init__(self, act=torch.tanh):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 20), nn.Linear(20, 14), nn.Linear(14, 10)
        self.act = act

    def forward(self, x):
        x = F.max_pool2d(self.act(self.conv1(x)), 2)
        x = F.max_pool2d(self.act(self.conv2(x)), (2, 2))
        x = torch.flatten(x, 1)
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


def vgg():
    layers, channels = [], 3
    for width in (4, 4, "M", 6, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Dropout(), nn.Linear(24, 5))


def mobilenet():
    """Inverted residuals of MobileNetV2: expansion, depthwise convolution, linear bottleneck, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU6(inplace=True),
        InvertedResidual(4, 4, stride=1, expand_ratio=2),
        InvertedResidual(4, 6, stride=2, expand_ratio=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


NETWORKS = {
    "LeNet-5, tanh": (LeNet5, (1, 12, 12)),
    "LeNet-5, ReLU": (lambda: LeNet5(F.relu), (1, 12, 12)),
    "VGG": (vgg, (3, 8, 8)),
    "MobileNetV2": (mobilenet, (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_mode_gets_bounds_that_hold(name):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build().train()
    model(torch.rand(16, *shape))  # statistics that are not 0 and 1
    network = quantizable.quantize(model.eval(), [2, 4, 8, 32], "lsq")
    network.calibrate([torch.rand(16, *shape)])
    network.eval()
    x = torch.rand(4, *shape)
    graphs = {str(mode): graph_of(network, shape, mode) for mode in network.modes}
    for mode in network.modes:
        with network.at_bits(mode), torch.no_grad():
            torch.testing.assert_close(
                graphs[str(mode)](x.double()), network(x).double(), atol=1e-4, rtol=1e-4
            )
    first = graphs.pop("32")
    box = Box.around(x[:1], 0.01)
    found = mode_difference_bounds(first, graphs, box, "joint")
    for point in sample(box, 30):
        for mode, second in graphs.items():
            assert found[mode].output.contains(second(point) - first(point), 1e-12).all()


@pytest.fixture(scope="module")
def resnet():
    return quantizable.load(SHIPPED)


def test_the_shipped_resnet_has_stages_and_bounds(resnet):
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    first, second = (graph_of(resnet, (3, 32, 32), mode) for mode in (8, 4))
    with resnet.at_bits(4), torch.no_grad():
        torch.testing.assert_close(second(x.double()), resnet(x).double(), atol=1e-3, rtol=1e-3)
    box = Box.around(x, 1e-6)
    found = difference_bounds(first, second, box, "interval").output
    for point in sample(box, 2):
        assert found.contains(second(point) - first(point), 1e-9).all()


def test_rows_go_some_at_a_time(monkeypatch):
    """With little memory the same bounds come out."""
    torch.manual_seed(0)
    network = quantizable.quantize(vgg().eval(), [4, 32], "lsq")
    network.calibrate([torch.rand(16, 3, 8, 8)])
    first, second = (graph_of(network.eval(), (3, 8, 8), mode) for mode in (32, 4))
    box = Box.around(torch.rand(2, 3, 8, 8), 0.01)
    together = difference_bounds(first, second, box, "joint")
    monkeypatch.setattr(reach, "MOST_AT_ONCE", 256 * 2 * 40)
    in_parts = difference_bounds(first, second, box, "joint")
    for some, all_ in zip(in_parts.difference, together.difference, strict=True):
        torch.testing.assert_close(some.low, all_.low, atol=1e-10, rtol=0)
        torch.testing.assert_close(some.high, all_.high, atol=1e-10, rtol=0)
