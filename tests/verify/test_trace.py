"""Networks of this library as stages: same function in every mode, and sound bounds between them."""

import pytest
import torch
from torch import nn

import quantizable
from quantizable.verify import Box, mode_difference_bounds
from quantizable.verify.command import load_graphs
from quantizable.verify.trace import graph_of
from tests.verify.conftest import sample

SHAPE = (1, 8, 8)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def convolutional():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Residual(4),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    model.train()
    model(torch.randn(64, *SHAPE))  # statistics that are not 0 and 1
    return model.eval()


def make(quantizer="lsq", model=None):
    network = quantizable.quantize(model or convolutional(), [2, 4, 8, 32], quantizer, first_last="mode")
    network.calibrate([torch.rand(64, *SHAPE)])
    return network.eval()


@pytest.mark.parametrize("quantizer", ["lsq", "lsq_plus", "nested", "dorefa", "pact", "sat"])
def test_stages_compute_what_the_network_computes(quantizer):
    network = make(quantizer)
    x = torch.rand(32, *SHAPE)
    for mode in network.modes:
        with network.at_bits(mode), torch.no_grad():
            expected = network(x).double()
        assert torch.allclose(graph_of(network, SHAPE, mode)(x.double()), expected, atol=1e-5)


@pytest.mark.parametrize("quantizer", ["lsq", "lsq_plus", "dorefa"])
def test_sampled_inputs_stay_inside(quantizer):
    network = make(quantizer)
    first = graph_of(network, SHAPE, 32)
    others = {str(m): graph_of(network, SHAPE, m) for m in (2, 4, 8)}
    box = Box.around(torch.rand(2, *SHAPE), 0.05, 0, 1)
    found = mode_difference_bounds(first, others, box)
    for x in sample(box, 340):
        a = first.values(x)
        for name, second in others.items():
            b = second.values(x)
            for i, interval in enumerate(found[name].difference):
                assert interval.contains(b[i] - a[i], 1e-12).all()


def test_norms_are_folded_and_modes_share_a_structure():
    network = make()
    graphs = [graph_of(network, SHAPE, m) for m in (2, 32)]
    kinds = [[type(n.stage).__name__ for n in g.nodes] for g in graphs]
    assert kinds[0] == kinds[1]
    assert "Scale" not in kinds[0]
    assert graphs[0].sha256 != graphs[1].sha256
    assert graphs[0].sha256 == graph_of(network, SHAPE, 2).sha256


def test_unsupported_layer_is_named_with_what_is_supported():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    with pytest.raises(ValueError, match=r"layer 1 \(MaxPool2d\) cannot be verified.*AvgPool2d"):
        graph_of(model, SHAPE)
    with pytest.raises(ValueError, match=r"\(GELU\) cannot be verified"):
        graph_of(nn.Sequential(nn.Linear(4, 4), nn.GELU()), [4])


def test_a_mode_the_network_lacks():
    with pytest.raises(ValueError, match="network has no mode 3; it has"):
        graph_of(make(), SHAPE, 3)
    with pytest.raises(ValueError, match="make it quantizable first"):
        graph_of(convolutional(), SHAPE, 4)


def test_a_mode_the_network_lacks_is_said_before_its_layers(tmp_path, monkeypatch):
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    monkeypatch.setattr("quantizable.storage.checkpoint.load", lambda path: make(model=pooled))
    (tmp_path / "net.ckpt").touch()
    with pytest.raises(ValueError, match="network has no mode 3"):
        load_graphs(tmp_path / "net.ckpt", ["32", "3"], SHAPE)


def test_an_input_shape_that_does_not_fit():
    with pytest.raises(ValueError, match=r"inputs of shape \(2, 8, 8\) do not fit the network"):
        graph_of(make(), (2, 8, 8), 4)


def test_uncalibrated_quantizer():
    network = quantizable.quantize(convolutional(), [4, 32])
    with pytest.raises(ValueError, match="never calibrated"):
        graph_of(network, SHAPE, 4)


def test_nan_weights():
    model = convolutional()
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        graph_of(model, SHAPE)
