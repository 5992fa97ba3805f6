"""Switching, fitting and loading of the network."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable import QuantizableNetwork, quantize


class SmallNet(nn.Module):
    """Two convolutions with norms, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()  # [B, 6, H, W]
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))  # [B, 4]


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 8, 8)


@pytest.fixture
def network() -> QuantizableNetwork:
    net = quantize(SmallNet(), [2, 4, "w4a8", 8, 32])
    net.calibrate([images()])
    return net.eval()


# -- switching -------------------------------------------------------------------------------------


def test_every_mode_there_and_back_is_bit_identical(network: QuantizableNetwork) -> None:
    x = images()
    first = {}
    for mode in network.modes:
        network.set_bits(mode)
        first[mode] = network(x)
    assert len({out.sum().item() for out in first.values()}) == 5
    for mode in reversed(network.modes):
        network.set_bits(mode)
        assert torch.equal(network(x), first[mode])


@pytest.mark.parametrize("mode", [3, "w2a8", "w4", "banana", 0, 33, 1.5])
def test_a_mode_that_is_not_there_is_refused(network: QuantizableNetwork, mode: object) -> None:
    network.set_bits(4)
    with pytest.raises(ValueError, match=r"it has 2, 4, w4a8, 8, 32|allowed are"):
        network.set_bits(mode)
    assert network.bits == 4


def test_bits_tells_and_takes_the_assignment(network: QuantizableNetwork) -> None:
    for assignment in (4, "w4a8", 32):
        network.set_bits(assignment)
        assert network.bits == assignment
    network.set_bits({"conv2": 2}, default="w4a8")
    x, told = images(), network.bits
    assert told == {"conv1": 8, "bn1": "w4a8", "conv2": 2, "bn2": 2, "fc": 8}
    mixed = network(x)
    network.set_bits(32)
    network.set_bits(told)
    assert network.bits == told
    assert torch.equal(network(x), mixed)


def test_the_last_pattern_that_matches_counts(network: QuantizableNetwork) -> None:
    network.set_bits({"*": 4, "conv*": 2})
    assert network.bits == {"conv1": 8, "bn1": 4, "conv2": 2, "bn2": 4, "fc": 8}
    network.set_bits({"conv*": 2, "*": 4})
    assert network.bits == {"conv1": 8, "bn1": 4, "conv2": 4, "bn2": 4, "fc": 8}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"layer9.*": 2}, "matches nothing; there are conv1"),
        ({"conv1": 4, "fc": 8, "conv2": 4}, "'conv1' is fixed at 8 bits"),
        ({"conv2": 4}, "no pattern matches layer 'conv1'"),
        ({"*": 3}, "has no mode 3"),
        ({}, "no pattern matches"),
        ({4: "conv2"}, "layer pattern 4 is no string"),
    ],
)
def test_illegal_mappings_change_nothing(
    network: QuantizableNetwork, patterns: dict[str, int], message: str
) -> None:
    network.set_bits(4)
    before = network(x := images())
    with pytest.raises(ValueError, match=message):
        network.set_bits(patterns)
    assert network.bits == 4
    assert torch.equal(network(x), before)


def test_a_default_without_a_mapping_is_refused(network: QuantizableNetwork) -> None:
    with pytest.raises(ValueError, match="default=2 goes with a mapping"):
        network.set_bits(4, default=2)
    assert network.bits == 32


def test_a_fixed_width_that_is_no_mode_can_be_named() -> None:
    net = quantize(SmallNet(), [2, 4, 32])
    net.set_bits({"conv1": 8}, default=4)
    assert net.bits == {"conv1": 8, "bn1": 4, "conv2": 4, "bn2": 4, "fc": 8}
    assert net(images()).isfinite().all()


def test_at_bits_restores_also_after_an_error(network: QuantizableNetwork) -> None:
    network.set_bits({"conv2": 2}, default=4)
    before = network.bits
    with pytest.raises(RuntimeError, match=r"shape|channels"), network.at_bits(8):
        network(torch.zeros(1, 1, 8, 8))
    assert network.bits == before
    with pytest.raises(ValueError, match="no mode 3"), network.at_bits(3):
        pass
    assert network.bits == before


def test_add_mode(network: QuantizableNetwork) -> None:
    network.add_mode("w2a4", like=2)
    network.set_bits("w2a4")
    assert network(images()).isfinite().all()
    assert torch.equal(network.bn1.norms["w2a4"].weight, network.bn1.norms["2"].weight)
    undefined = "layer 'conv2': LSQWeight is not defined at 1 bit"
    for mode, message in ((4, "has mode 4 already"), ("w1a4", undefined)):
        with pytest.raises(ValueError, match=message):
            network.add_mode(mode, like=4)


def test_add_mode_checks_attention_operands() -> None:
    from timm.layers import Attention

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attn, self.head = nn.Linear(8, 8), Attention(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attn(self.stem(x)))

    net = quantize(Net(), [2, "w4a8", 32], attention=True)
    with pytest.raises(ValueError, match="layer 'attn': LSQActivation is not defined at 1 bit"):
        net.add_mode("w2a1", like=2)
    assert [m.name for m in net.modes] == ["2", "w4a8", "32"]
    net.add_mode("w2a4", like=2)
    net.calibrate([torch.randn(2, 5, 8)])
    net.set_bits("w2a4")
    assert net.attn.operands["q"].bits == 4
    assert net(torch.randn(2, 5, 8)).isfinite().all()


# -- copies and state dicts ------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(
    network: QuantizableNetwork, clone: Callable[[QuantizableNetwork], QuantizableNetwork]
) -> None:
    network.set_bits(4)
    twin, x = clone(network), images()
    assert twin.bits == 4
    assert torch.equal(twin(x), network(x))
    before = network(x)
    twin.set_bits(2)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(twin(x), network(x))
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("norms", ["per_mode", "shared_affine", "shared"])
def test_state_dict_round_trip(tmp_path: object, norms: str, assign: bool) -> None:
    net = quantize(SmallNet(), [2, 4, 32], norms=norms)
    net.calibrate([images()])
    for mode in net.modes:
        net.set_bits(mode)
        net(images())  # statistics differ by mode now
    net.eval()
    torch.save(net.state_dict(), f"{tmp_path}/net.pt")
    other = quantize(SmallNet(), [2, 4, 32], norms=norms).eval()
    other.load_state_dict(torch.load(f"{tmp_path}/net.pt", weights_only=True), assign=assign)
    x = images()
    for mode in net.modes:
        net.set_bits(mode)
        other.set_bits(mode)
        assert torch.equal(net(x), other(x))
    if norms == "shared_affine":
        assert len({id(n.weight) for n in other.bn1.norms.values()}) == 1


@pytest.mark.parametrize("assign", [False, True])
def test_a_float_state_dict_sets_weights_norms_and_step_sizes(assign: bool) -> None:
    source = SmallNet()
    nn.init.uniform_(source.bn1.weight, 0.5, 2.0)
    nn.init.normal_(source.bn1.running_mean)
    net = quantize(SmallNet(), [2, 4, 32])
    net.load_state_dict(source.state_dict(), assign=assign)
    fresh = quantize(source, [2, 4, 32]).eval()
    net.eval()
    x = images()
    net.calibrate([x])
    fresh.calibrate([x])
    for mode in net.modes:
        net.set_bits(mode)
        fresh.set_bits(mode)
        assert torch.equal(net(x), fresh(x))
    means = [norm.running_mean for norm in net.bn1.norms.values()]
    assert len({m.data_ptr() for m in means}) == 3


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_a_prefix_of_all_keys_is_left_out(network: QuantizableNetwork, prefix: str) -> None:
    x = images()
    for source in (SmallNet().eval(), quantize(SmallNet(), [2, 4, "w4a8", 8, 32]).eval()):
        network.load_state_dict({prefix + key: value for key, value in source.state_dict().items()})
        assert torch.equal(network(x), source(x))


def test_a_float_network_whose_own_part_is_called_model() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SmallNet()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    source = Wrapped().eval()
    net = quantize(Wrapped(), [4, 32]).eval()
    net.load_state_dict(source.state_dict())
    assert torch.equal(net(x := images()), source(x))


def test_a_state_dict_that_does_not_fit_changes_nothing(network: QuantizableNetwork) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrong = SmallNet().state_dict()
    wrong["fc.weight"] = torch.zeros(7, 6)
    with pytest.raises(RuntimeError, match=r"size mismatch for fc\.weight"):
        network.load_state_dict(wrong)
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({"backbone.weight": torch.zeros(1)})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_to_float_gives_the_float_network_back() -> None:
    source = SmallNet().eval()
    net = quantizable.quantize(source, [2, 32])
    back = quantizable.to_float(net)
    assert [type(m) for m in back.modules()] == [type(m) for m in source.modules()]
    assert list(back.state_dict()) == list(source.state_dict())
    assert torch.equal(back(x := images()), source(x))
    with torch.no_grad():
        net.bn1.norms["2"].running_mean.fill_(7)
    assert net.to_float(2).bn1.running_mean[0] == 7


# -- fitting to data -------------------------------------------------------------------------------


def test_calibration_reads_all_batches_also_without_a_float_mode() -> None:
    small, large = images() * 0.01, images() * 10
    scales = []
    for batches in ([large], [small, large]):
        torch.manual_seed(0)
        net = quantize(SmallNet(), [2, 4])
        net.calibrate(batches)
        scales.append(net.conv1.input_quantizer.level(8).scale.item())
    assert scales[1] == pytest.approx(scales[0], rel=0.5)  # the small batch alone would give 1000 times less


def test_calibrating_a_network_from_scratch_sees_normalized_activations() -> None:
    net = quantize(SmallNet(), [4, 32])
    with torch.no_grad():
        net.conv1.weight.mul_(100)
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k or "tracked" in k}
    net.calibrate([images()])
    assert net.conv2.input_quantizer.level(4).scale < 1  # of values up to about 4, not 400
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


def test_calibration_warns_of_layers_that_are_read_past() -> None:
    class Bypass(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
            return nn.functional.linear(x.mean((2, 3)), 2 * self.fc.weight)  # no more the layer's weight

    net = quantize(Bypass(), [4, 32])
    with pytest.warns(UserWarning, match="no data passed through fc: the network skips"):
        net.calibrate([images()])


def test_calibration_warns_also_where_no_layer_was_called() -> None:
    class Bypass(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, 2 * self.inner.weight)

    model = Bypass()
    model.inner = nn.Linear(4, 4)
    net = quantize(model, [4, 32])
    with pytest.warns(UserWarning, match="no data passed through inner: the network skips"):
        net.calibrate([torch.randn(2, 4)])


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader is empty"),
        (torch.zeros(2, 3, 8, 8), "the loader is a tensor; give a list of batches"),
        ([torch.full((2, 3, 8, 8), torch.nan)], "batch 1 of the loader has NaN"),
        ([("cat", 1)], "batch 1 of the loader: the input is a str; needed is"),
        ([()], "is a NoneType"),
    ],
)
def test_unusable_loaders(network: QuantizableNetwork, loader: list, message: str) -> None:
    network.set_bits(2)
    for fit in (network.calibrate, network.reestimate_norms):
        with pytest.raises(ValueError, match=message):
            fit(loader)
    assert network.bits == 2
    assert not any(q.calibrating for q in network.quantizers().values())


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 1), lambda x: [x], lambda x: {"image": x}])
def test_loaders_of_several_shapes(network: QuantizableNetwork, wrap: Callable[[Tensor], object]) -> None:
    batch = images()
    plain = copy.deepcopy(network)
    plain.calibrate([batch])
    network.calibrate([images(), images()])  # other step sizes, which the wrapped batch replaces
    network.calibrate([wrap(batch)])
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_reestimated_norms_hold_the_mean_over_the_batches(network: QuantizableNetwork) -> None:
    batches = [images(), images(), images()]
    other = network.bn1.norms["8"].running_mean.clone()
    network.reestimate_norms(batches, modes=[2])
    network.set_bits(2)
    means = []
    network.conv1.register_forward_hook(lambda module, x, out: means.append(out.mean((0, 2, 3))))
    for x in batches:
        network(x)
    norm = network.bn1.norms["2"]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == 0.1
    assert torch.equal(network.bn1.norms["8"].running_mean, other)
    assert not network.training
