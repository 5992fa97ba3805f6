"""Attributes set on a network, and layers put into its model after it was made."""

import copy
import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import timm
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from quantizable import QuantizableNetwork, quantize
from quantizable.models.create import create_model
from quantizable.nn import PerModeNorm
from quantizable.nn.layers import QuantConv2d, QuantLinear
from quantizable.nn.operands import QuantOperands
from quantizable.storage.load import load
from quantizable.storage.qz import save_qz
from quantizable.training.classifier import QuantizableClassifier
from tests.test_network import SmallNet, images
from tests.tiny import TinyCNN, trainer

MODES = [2, 4, "w4a8", 8, 32]


@pytest.fixture
def network() -> QuantizableNetwork:
    net = quantize(SmallNet(), MODES)
    net.calibrate([images()])
    return net.eval()


def resnet(classes: int = 10) -> QuantizableNetwork:
    net = quantize(timm.create_model("resnet10t", num_classes=classes), [2, 8, 32])
    net.calibrate([torch.randn(2, 3, 32, 32)])
    return net.eval()


HEADS = {
    "attribute": lambda net: setattr(net, "fc", nn.Linear(6, 3)),
    "model's attribute": lambda net: setattr(net.model, "fc", nn.Linear(6, 3)),
    "add_module": lambda net: net.add_module("fc", nn.Linear(6, 3)),
    "register_module": lambda net: net.register_module("fc", nn.Linear(6, 3)),
    "set_submodule": lambda net: net.set_submodule("model.fc", nn.Linear(6, 3)),
    "model's set_submodule": lambda net: net.model.set_submodule("fc", nn.Linear(6, 3)),
    "_modules": lambda net: net.model._modules.__setitem__("fc", nn.Linear(6, 3)),
}


@pytest.mark.parametrize("way", HEADS)
def test_a_new_head_is_used_switched_and_saved_like_the_old_one(
    network: QuantizableNetwork, way: str
) -> None:
    keys, layers = set(network.state_dict()), list(network.layers())
    network.set_bits(4)
    grid = network.fc.input_quantizer.level(8).scale.item()
    HEADS[way](network)
    x = images()
    quantized = network(x)
    assert quantized.shape == (4, 3)
    assert isinstance(network.model.fc, QuantLinear)
    assert network.model.fc.bits.name == "8"  # the last layer stays at 8 bits
    assert network.fc.input_quantizer.level(8).scale.item() == grid  # the same features come in
    assert set(network.state_dict()) == keys
    assert list(network.layers()) == layers
    network.set_bits(32)
    plain = network.to_float()
    assert type(plain.fc) is nn.Linear
    assert torch.equal(network(x), plain.eval()(x))
    assert not torch.equal(network(x), quantized)
    again = quantize(SmallNet(), MODES).eval()
    again.fc = nn.Linear(6, 3)
    again.load_state_dict(network.state_dict())
    for mode in network.modes:
        network.set_bits(mode)
        again.set_bits(mode)
        assert torch.equal(again(x), network(x))


def test_a_convolution_and_a_norm_put_in_later_are_those_of_their_place(network: QuantizableNetwork) -> None:
    network.set_bits({"conv2": 2}, default=4)
    network.conv2, network.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6).eval()
    assert isinstance(network.conv2, QuantConv2d)
    assert isinstance(network.bn2, PerModeNorm)
    assert (network.conv2.bits.name, network.bn2.mode.name) == ("2", "2")
    assert network.bits == {"conv1": 8, "bn1": 4, "conv2": 2, "bn2": 2, "fc": 8}
    with network.at_bits(8):
        assert network.conv2.bits.name == "8"
    assert network.conv2.bits.name == "2"


def test_parameters_seen_by_an_optimizer_are_those_after_conversion(network: QuantizableNetwork) -> None:
    network.model.fc = nn.Linear(6, 3)
    names = [name for name, _ in network.named_parameters()]
    assert "model.fc.weight_quantizer.levels.8.scale" in names


def test_plain_values_and_parameters_of_the_model_reach_it() -> None:
    net = resnet()
    net.drop_rate, net.global_pool = 0.5, nn.Flatten()
    assert net.model.drop_rate == 0.5
    assert isinstance(net.model.global_pool, nn.Flatten)
    assert not {"drop_rate", "global_pool"} & (vars(net).keys() | net._modules.keys())
    net.note = "new"  # of neither: stays here
    assert not hasattr(net.model, "note")
    del net.drop_rate, net.note
    assert not hasattr(net.model, "drop_rate")
    assert not hasattr(net, "note")
    model = SmallNet()
    model.gain, model.config = nn.Parameter(torch.ones(())), "the model's"
    model.register_buffer("offset", torch.zeros(()))
    net = quantize(model, [4, 32])
    net.gain, net.offset = nn.Parameter(torch.zeros(())), torch.ones(())
    assert (net.model.gain.item(), net.model.offset.item()) == (0, 1)
    net.register_buffer("offset", torch.tensor(2.0))
    net.register_parameter("gain", nn.Parameter(torch.tensor(3.0)))
    assert (net.model.gain.item(), net.model.offset.item()) == (3, 2)
    assert net.config["bits"] == ["4", "32"]  # the network's own
    assert not {"gain", "offset"} & net.state_dict().keys()


def test_what_is_set_on_a_norm_reaches_the_copies_of_all_modes(network: QuantizableNetwork) -> None:
    keys = list(network.state_dict())
    network.bn1.eps, network.bn1.weight = 0.1, nn.Parameter(torch.full((6,), 2.0))
    copies = network.bn1.norms.values()
    assert [norm.eps for norm in copies] == [0.1] * 5
    assert torch.equal(torch.stack([*(norm.weight for norm in copies)]), torch.full((5, 6), 2.0))
    assert len({norm.weight for norm in copies}) == 5
    assert list(network.state_dict()) == keys


REFUSED = {
    "new layer": (lambda net: setattr(net, "aux", nn.Linear(2, 2)), "net.model.aux"),
    "new layer by add_module": (lambda net: net.add_module("aux", nn.Linear(2, 2)), "net.model.aux"),
    "new parameter": (lambda net: setattr(net, "gain", nn.Parameter(torch.ones(1))), "net.model.gain"),
    "new buffer": (lambda net: net.register_buffer("mean", torch.ones(1)), "persistent=False"),
    "name of a method": (lambda net: setattr(net, "layers", nn.Linear(2, 2)), "net.model.layers"),
    "lazy": (lambda net: setattr(net, "fc", nn.LazyLinear(3)), "fc: lazy"),
    "hook": (lambda net: setattr(net, "fc", nn.utils.spectral_norm(nn.Linear(6, 3))), "fc: a hook"),
    "other modes": (lambda net: setattr(net, "conv2", quantize(SmallNet(), [3, 32]).conv2), "other modes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_model_has_no_use_for_is_refused(network: QuantizableNetwork, case: str) -> None:
    change, message = REFUSED[case]
    keys, x = list(network.state_dict()), images()
    before = network(x)
    with pytest.raises(ValueError, match=message):
        change(network)
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x), before)


def test_a_deleted_layer_is_gone_and_a_headless_network_runs(network: QuantizableNetwork) -> None:
    network.fc = nn.Identity()
    assert "fc" not in network.layers()
    network.set_bits(2)
    assert network(images()).shape == (4, 6)
    del network.fc
    assert not hasattr(network, "fc")
    network.set_bits(4)


def test_a_layer_may_move_within_its_network_or_be_copied(network: QuantizableNetwork) -> None:
    x = images()
    network.set_bits(4)
    wanted = network(x)
    network.conv2 = copy.deepcopy(network.conv2)
    assert torch.equal(network(x), wanted)
    network.set_bits(2)
    assert network.conv2.bits.name == "2"


def test_copies_pickles_and_averages_go_on_finding_new_layers(network: QuantizableNetwork) -> None:
    x = images()
    for copied in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        AveragedModel(network).module,
        nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network)),
    ):
        copied.model.fc = nn.Linear(6, 3)
        copied.set_bits(2)
        assert isinstance(copied.fc, QuantLinear)
        assert copied.bn2.mode.name == "2"
        assert copied(x).shape == (4, 3)
    assert network(x).shape == (4, 4)
    alone = copy.deepcopy(network.fc)
    assert (
        len(pickle.dumps(alone)) < len(pickle.dumps(network)) / 2
    )  # a layer does not drag its network along


def test_torch_compiles_a_network_with_a_new_head(network: QuantizableNetwork) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager")
    x = images()
    compiled(x)
    network.fc = nn.Linear(6, 3)
    for bits in (2, 8, 32):
        network.set_bits(bits)
        torch.testing.assert_close(compiled(x), network(x))
    torch._dynamo.reset()


def test_weights_that_apply_draws_anew_get_step_sizes_of_their_own(network: QuantizableNetwork) -> None:
    @torch.no_grad()
    def grow(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(100)

    before = {name: q.level(8).scale.clone() for name, q in weights(network)}
    assert network.apply(grow) is network
    for name, quantizer in weights(network):
        factor = 1 if name == "fc" else 100
        torch.testing.assert_close(quantizer.level(8).scale, before[name] * factor)


def weights(network: QuantizableNetwork) -> list[tuple[str, nn.Module]]:
    return [(name, layer.weight_quantizer) for name, layer in network.layers().items()]


def test_a_frozen_part_learns_nothing_in_any_mode(network: QuantizableNetwork) -> None:
    network.requires_grad_(False)
    network.fc = nn.Linear(6, 3)
    for mode in network.modes:
        network.set_bits(mode)
        network(images()).square().sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {n for n, p in network.named_parameters() if p.requires_grad}
    assert {"model.fc.weight", "model.fc.bias", "model.fc.weight_quantizer.levels.8.scale"} <= learning
    assert all(name.startswith("model.fc.") for name in learning)


def test_tied_weights_are_one_parameter_in_every_mode() -> None:
    """Step sizes are each layer's own: tied afterwards they fit when they are fitted again."""
    net = quantize(nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)]), [2, 4, 32])
    first, second = net.model[1], net.model[2]
    second.weight = first.weight
    second.weight_quantizer.refit(second.float_weight())
    assert second.weight is first.weight
    assert sum(p is first.weight for p in net.parameters()) == 1
    for mode in net.modes:
        net.set_bits(mode)
        assert torch.equal(second.quantized_weight(), first.quantized_weight())


def test_data_parallel_is_refused() -> None:
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        resnet()._replicate_for_data_parallel()


# -- fine-tuning on other classes ------------------------------------------------------------------


def separable(classes: int, count: int = 128) -> list[tuple[Tensor, Tensor]]:
    """Images whose class is the brightness of a channel and a half."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    x = 0.1 * torch.randn(count, 3, 8, 8, generator=draw)
    for label in range(classes):
        x[labels == label, label % 3, :, 4 * (label // 3 % 2) :] += 2
    return [(x[i : i + 32], labels[i : i + 32]) for i in range(0, count, 32)]


def saved(module: QuantizableClassifier, data: list, path: Path, epochs: int) -> Path:
    done = trainer(max_epochs=epochs, enable_checkpointing=True, default_root_dir=path.parent)
    done.fit(module, DataLoader(TensorDataset(*map(torch.cat, zip(*data, strict=True))), batch_size=32))
    done.save_checkpoint(path)
    return path


def test_ten_classes_become_four_in_every_mode(tmp_path: Path) -> None:
    pl.seed_everything(0)
    options = {"bits": [2, 4, 8, 32], "optimizer": {"lr": 0.1, "warmup": 0}}
    first = saved(QuantizableClassifier("tiny_cnn", 10, **options), separable(10), tmp_path / "ten.ckpt", 1)

    network = load(first)
    step = network.get_submodule("model.stem.0").weight_quantizer.level(8).scale.clone()
    network.fc = nn.Linear(6, 4)
    assert network.info["num_classes"] == 4
    assert network.info["class_names"] is None
    assert torch.equal(network.stem[0].weight_quantizer.level(8).scale, step)  # what was learned stays
    module = QuantizableClassifier(network, 4, optimizer={"lr": 0.1, "warmup": 0})
    data = separable(4)
    path = saved(module, data, tmp_path / "four.ckpt", 12)

    again = load(path)
    assert again.info["num_classes"] == 4
    save_qz(again, tmp_path / "four.qz")
    integers = load(tmp_path / "four.qz")
    assert integers.info["num_classes"] == 4
    x, labels = (torch.cat(part) for part in zip(*data, strict=True))
    module.network.eval()
    for bits in (2, 4, 8, 32):
        again.set_bits(bits)
        with module.network.at_bits(bits):
            assert torch.equal(again(x), module.network(x))
        assert (again(x).argmax(1) == labels).float().mean() > 0.9
        if bits != 32:
            integers.set_bits(bits)
            torch.testing.assert_close(integers(x), again(x), rtol=1e-4, atol=1e-4)


def test_timms_reset_classifier_and_a_head_of_another_shape() -> None:
    net = resnet()
    net.info = {"model": "resnet10t", "num_classes": 10, "model_options": {}, "class_names": ["a"] * 10}
    net.reset_classifier(4)
    net.set_bits(2)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 4)
    assert (net.info["num_classes"], net.info["model"], net.num_classes) == (4, "resnet10t", 4)
    net.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5))
    assert (net.info["num_classes"], net.info["model"], net.num_classes) == (5, None, 5)
    assert net.layers()["fc.2"].fixed_bits == 8
    assert net.layers()["fc.0"].fixed_bits is None


def test_a_classifier_wants_as_many_classes_as_outputs() -> None:
    net = quantize(TinyCNN(10), [2, 32])
    with pytest.raises(ValueError, match="10 outputs, but num_classes=4; give it a new head"):
        QuantizableClassifier(net, 4)
    with pytest.raises(ValueError, match="quantizable already"):
        QuantizableClassifier(net, 10, weights="some.pt")


def test_operands_that_calibration_finds_leave_the_name_of_the_network() -> None:
    """So that a ``.qz`` file says how to build it."""
    model = create_model("text_transformer", 2, vocabulary_size=9, embedding_dim=8, heads=2, num_layers=1)
    net = quantize(model, [4, 32], attention=True)
    net.info = {"model": "text_transformer", "num_classes": 2, "model_options": {}}
    net.calibrate([torch.randint(1, 9, (4, 5))])
    assert any(isinstance(module, QuantOperands) for module in net.modules())
    assert all(module.training for module in net.modules())
    assert net.info["model"] == "text_transformer"
    net.model.encoder.norm = nn.Identity()
    net.refresh()
    assert net.info["model"] is None
