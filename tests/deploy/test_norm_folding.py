"""Folded norms against the norms themselves."""

import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.lowering import lower
from tests.small_net import trained_like


class ReadTwice(nn.Module):
    """The convolution's output goes into the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 4, 1)
        self.head_norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head_norm(self.head(x + self.norm(x)))


def test_only_a_norm_that_alone_reads_the_layer_is_folded() -> None:
    network = quantizable.quantize(trained_like(ReadTwice()), [4]).eval()
    x = torch.randn(4, 3, 6, 6)
    network.calibrate([x])
    lowered = lower(network, 4, x)
    assert lowered.folded == ["head_norm"]
    with torch.no_grad():
        torch.testing.assert_close(lowered.model(x), network(x))


def test_each_mode_folds_its_own_norm(make, images: Tensor) -> None:
    network = make()
    with torch.no_grad():
        network.model.stem_norm.norms["2"].bias += 1
    biases = [lower(network, bits, images).model.stem.bias for bits in (2, 4)]
    torch.testing.assert_close(biases[0], biases[1] + 1)
    assert network.model.stem.bias is None  # the network itself is left as it was
