"""Networks of this library as stages: same function in every mode, and sound bounds between them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantizable
from quantizable.models.create import create_model
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


@pytest.mark.parametrize("name", ["lenet1", "lenet5"])
def test_our_networks_for_digits_are_traced(name):
    model = create_model(name, 10, 1)
    graph = graph_of(quantizable.quantize(model, [32]).eval(), (1, 28, 28), 32)
    x = torch.rand(4, 1, 28, 28)
    assert torch.allclose(graph(x.double()), model.eval()(x).double(), atol=1e-5)


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
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, dilation=2), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"layer 1 \(MaxPool2d\) cannot be verified.*AvgPool2d"):
        graph_of(model, SHAPE)
    with pytest.raises(ValueError, match=r"\(Softplus\) cannot be verified"):
        graph_of(nn.Sequential(nn.Linear(4, 4), nn.Softplus()), [4])


def test_a_mode_the_network_lacks():
    with pytest.raises(ValueError, match="network has no mode 3; it has"):
        graph_of(make(), SHAPE, 3)
    with pytest.raises(ValueError, match="make it quantizable first"):
        graph_of(convolutional(), SHAPE, 4)


def test_a_mode_the_network_lacks_is_said_before_its_layers(tmp_path, monkeypatch):
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(72, 3))
    monkeypatch.setattr("quantizable.storage.load.load", lambda path: make(model=pooled))
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


class Chain(nn.Module):
    """A convolution, what a test is about, and a classifier."""

    def __init__(self, between):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 3)
        self.between = between

    def forward(self, x):
        return self.head(self.between(self, self.conv(x)).mean(dim=(2, 3)))


def rectified_in_place(net, x):
    return net.relu(x) + x  # both operands are rectified


def added_in_place(net, x):
    before = x
    x += x.relu()
    return before + x


def method_in_place(net, x):
    y = x.add_(x.relu())
    x.relu_()
    return y  # the same tensor


def keyword_in_place(net, x):
    F.relu(x, inplace=True)
    return x


@pytest.mark.parametrize("between", [rectified_in_place, added_in_place, method_in_place, keyword_in_place])
def test_an_operation_in_place_changes_every_name_of_its_tensor(between):
    torch.manual_seed(0)
    network = make(model=Chain(between).eval())
    x = torch.rand(32, *SHAPE)
    with network.at_bits(8), torch.no_grad():
        expected = network(x).double()
    torch.testing.assert_close(graph_of(network, SHAPE, 8)(x.double()), expected, atol=1e-5, rtol=0)


def view_changed_in_place(net, x):
    torch.flatten(x, 1).relu_()
    return x


def scaled_addition(net, x):
    return torch.add(x, x.relu(), alpha=-1)


def partly_flattened(net, x):
    return torch.flatten(x, end_dim=1)[None]


def dropped(net, x):
    return F.dropout(x)


@pytest.mark.parametrize(
    ("between", "named"),
    [
        (view_changed_in_place, "relu_ changes in place what mean reads through a view"),
        (scaled_addition, "layer add .* cannot be verified"),
        (partly_flattened, "layer flatten .* cannot be verified"),
        (dropped, "random in evaluation too"),
    ],
)
def test_what_would_be_another_function_is_refused(between, named):
    with pytest.raises(ValueError, match=named):
        graph_of(Chain(between).eval(), SHAPE)


def test_a_mean_with_another_divisor_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, divisor_override=1), nn.Flatten())
    with pytest.raises(ValueError, match=r"layer 1 \(AvgPool2d\) cannot be verified"):
        graph_of(model.eval(), SHAPE)


def test_several_outputs_are_refused():
    class Two(nn.Module):
        def forward(self, x):
            return x.relu(), x

    with pytest.raises(ValueError, match="returns a tuple of outputs; supported is one tensor"):
        graph_of(Two().eval(), SHAPE)


def test_what_is_computed_last_need_not_be_the_output():
    class Early(nn.Module):
        def forward(self, x):
            y = x.relu()
            F.relu6(y + y)
            return y

    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(graph_of(Early(), SHAPE)(x), x.double().relu())


def test_a_layer_with_a_hook_is_refused():
    network = make()
    network.model[1].register_forward_hook(lambda module, inputs, output: 3 * output)
    with pytest.raises(ValueError, match="layer 1 has a forward hook"):
        graph_of(network, SHAPE, 8)


def test_a_norm_of_tokens_is_not_folded_into_the_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())  # as many tokens as channels
    model(torch.randn(64, 4, 6))  # statistics that are not 0 and 1
    nn.init.normal_(model[1].weight)
    model.double().eval()
    x = torch.randn(8, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(graph_of(model, (4, 6))(x), model(x))


def test_a_norm_with_a_forward_of_its_own_is_refused():
    class Doubling(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match=r"layer 1 \(Doubling\) cannot be verified"):
        graph_of(nn.Sequential(nn.Conv2d(1, 2, 3), Doubling(2)).eval(), SHAPE)
