"""Conversion of real networks, and the options of ``quantize``."""

import warnings
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

from quantizable import QuantizableNetwork, quantize
from quantizable.nn import PerModeNorm, QuantLayer, QuantLinear
from quantizable.quantizers import DoReFaWeight, LSQActivation, LSQWeight
from tests.test_network import SmallNet, images

TIMM_NETWORKS: list[tuple[str, int, dict[str, Any]]] = [
    ("resnet18", 32, {}),
    ("mobilenetv2_100", 32, {}),
    ("mobilenetv3_small_100", 32, {}),
    ("tf_efficientnet_b0", 32, {}),
    ("regnetx_002", 32, {}),
    ("densenet121", 32, {"growth_rate": 8, "block_config": (2, 2, 1, 1)}),
    ("convnext_atto", 32, {}),
    ("vit_tiny_patch16_224", 32, {"img_size": 32}),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64}),
    ("mixer_s32_224", 64, {"img_size": 64}),
    ("vgg11_bn", 32, {"mlp_ratio": 0.01}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "options"), TIMM_NETWORKS, ids=[n for n, _, _ in TIMM_NETWORKS])
def test_timm_network(name: str, size: int, options: dict[str, Any]) -> None:
    model = timm.create_model(name, num_classes=10, **options).eval()
    nn.init.normal_(model.get_classifier().weight, std=0.1)  # mixers start with zeros
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = model(x)
    keys = list(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every layer is quantized and sees data
        net = quantize(model, [2, "w4a8", 32])
        net.calibrate([x])
    with torch.no_grad():
        assert torch.equal(model(x), expected)  # the float network is left as it is
        net.set_bits(32)
        assert torch.equal(net(x), expected)
    assert all(m.bits.is_float for m in net.layers().values())
    first, *_, last = net.layers().values()
    assert isinstance(first, QuantLayer)
    assert isinstance(last, QuantLayer)
    assert (first.fixed_bits, last.fixed_bits) == (8, 8)
    assert sum(layer.fixed_bits == 8 for layer in net.layers().values()) == 2
    assert not any(
        isinstance(m, nn.Conv2d | nn.Linear) and not isinstance(m, QuantLayer) for m in net.modules()
    )
    for mode in (2, "w4a8"):
        net.zero_grad()
        net.set_bits(mode)
        out = net(x)
        out.square().mean().backward()
        assert out.isfinite().all()
        assert not torch.equal(out, expected)
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert grads
        assert all(g.isfinite().all() for g in grads)
    assert list(net.to_float().state_dict()) == keys


@pytest.mark.parametrize(
    "name", ["test_nfnet", "test_resnet", "test_vit", "test_efficientnet", "test_convnext"]
)
def test_small_timm_network_is_bit_identical_in_float(name: str) -> None:
    model = timm.create_model(name, num_classes=3).eval()
    x = torch.randn(1, 3, 160, 160)
    net = quantize(model, [4, 32])
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        net.set_bits(4)
        assert net(x).isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit"])
def test_torchvision_network(name: str) -> None:
    if name == "vit":
        model: nn.Module = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=4)
        nn.init.normal_(model.heads.head.weight)
    else:
        model = torchvision.models.get_model(name, num_classes=4)
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    net = quantize(model, [8, 32])
    net.calibrate([x])
    assert all(q.initialised for q in net.quantizers().values())
    assert torch.equal(net(x), model(x))
    net.set_bits(8)
    assert not torch.equal(net(x), model(x))
    torch.testing.assert_close(net(x), model(x), rtol=0.2, atol=0.2)


def test_a_backbone_in_a_head_of_ones_own() -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("test_resnet", features_only=True, out_indices=(1, 2))
            channels = self.backbone.feature_info.channels()
            self.up = nn.ConvTranspose2d(channels[1], channels[0], 2, stride=2)
            self.head = nn.Conv2d(channels[0], 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            fine, coarse = self.backbone(x)
            return self.head(fine + self.up(coarse))

    net = quantize(Segmenter(), [2, 32])
    layers = net.layers()
    assert [name for name, layer in layers.items() if layer.fixed_bits] == ["backbone.conv1.0", "head"]
    net.set_bits(2)
    assert net(torch.randn(2, 3, 32, 32)).isfinite().all()


# -- options ---------------------------------------------------------------------------------------


def fixed(net: QuantizableNetwork) -> dict[str, int | None]:
    return {name: layer.fixed_bits for name, layer in net.layers().items()}


@pytest.mark.parametrize(
    ("first_last", "expected"),
    [
        (8, {"conv1": 8, "conv2": None, "fc": 8}),
        (4, {"conv1": 4, "conv2": None, "fc": 4}),
        ("mode", {"conv1": None, "conv2": None, "fc": None}),
        ("float", {"conv2": None}),
    ],
)
def test_first_and_last(first_last: Any, expected: dict[str, int | None]) -> None:
    net = quantize(SmallNet(), [2, 32], first_last=first_last)
    assert fixed(net) == expected
    net.set_bits(2)
    assert net(images()).isfinite().all()


def test_overrides_include_and_exclude() -> None:
    net = quantize(
        SmallNet(),
        [2, 32],
        include=["conv*", "fc"],
        exclude=["conv1"],
        overrides={"fc": {"bits": "mode", "quantizer": "dorefa"}, "conv2": {"per_channel": False}},
    )
    assert list(net.layers()) == ["conv2", "fc"]
    assert isinstance(net.fc.weight_quantizer, DoReFaWeight)
    assert net.fc.fixed_bits is None
    assert net.conv2.weight_quantizer.level(2).scale.shape == ()
    assert type(net.conv1) is nn.Conv2d


def test_weights_only_and_activations_only() -> None:
    net = quantize(SmallNet(), ["w4a32", "w32a4", 32])
    x = images()
    net.calibrate([x])
    for mode, weights, inputs in (("w4a32", 4, 32), ("w32a4", 32, 4)):
        net.set_bits(mode)
        assert (net.conv2.weight_quantizer.bits, net.conv2.input_quantizer.bits) == (weights, inputs)
        assert net(x).isfinite().all()
        assert net.bits == mode
    alone = quantize(SmallNet(), ["w4a32"])
    assert not any(len(layer.input_quantizer.levels) for layer in alone.layers().values())
    alone.calibrate([x])


def test_a_string_is_one_pattern() -> None:
    net = quantize(SmallNet(), [2, 32], include="conv*", exclude="conv1")
    assert list(net.layers()) == ["conv2"]
    assert net.config["exclude"] == ["conv1"]


def test_widths_may_be_written_as_text() -> None:
    net = quantize(SmallNet(), ["2", "32"], first_last="8", overrides={"fc": {"bits": "4"}})
    assert fixed(net) == {"conv1": 8, "conv2": None, "fc": 4}
    assert quantize(SmallNet(), **net.config).config == net.config


def test_the_first_layer_reads_images_with_lsq() -> None:
    net = quantize(SmallNet(), [1, 32], "dorefa")
    assert isinstance(net.conv1.input_quantizer, LSQActivation)
    net.calibrate([images()])
    net.set_bits(1)
    assert net(images()).isfinite().all()


def test_per_channel_scales_lie_along_the_output_channels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 2)
            self.grouped = nn.ConvTranspose2d(6, 8, 2, groups=2)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
            self.head = nn.Conv1d(8, 3, 1)

    layers = quantize(Net(), [4, 32]).layers()
    shapes = {n: list(next(layer.weight_quantizer.parameters()).shape) for n, layer in layers.items()}
    assert shapes == {"up": [1, 6, 1, 1], "grouped": [], "depthwise": [8, 1, 1, 1], "head": [3, 1, 1]}


@pytest.mark.parametrize("norms", ["per_mode", "shared_affine", "shared"])
def test_norm_sharing(norms: str) -> None:
    net = quantize(SmallNet(), [2, 4, 32], norms=norms)
    if norms == "shared":
        assert type(net.bn1) is nn.BatchNorm2d
        return
    copies = list(net.bn1.norms.values())
    assert len({id(c) for c in copies}) == 3
    assert len({id(c.weight) for c in copies}) == (1 if norms == "shared_affine" else 3)
    net.add_mode("w2a4", like=2)
    assert len({id(c.weight) for c in net.bn1.norms.values()}) == (1 if norms == "shared_affine" else 4)


def test_a_norm_used_twice_stays_one_and_those_in_a_dictionary_are_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleDict({"a": nn.LayerNorm(4)})
            self.again = self.norms["a"]
            self.fc = nn.Linear(4, 4)

    net = quantize(Net(), [4, 32])
    assert isinstance(net.again, PerModeNorm)
    assert net.again is net.model.norms["a"]


def test_training_flags_are_kept() -> None:
    net = quantize(SmallNet().eval(), [4, 32])
    assert not net.training
    assert not any(m.training for m in net.norms()["bn1"].norms.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": []}, "list of bit modes is empty"),
        ({"bits": [2, 2]}, "listed more than once"),
        ({"bits": [2, 20]}, "20 is out of range"),
        ({"bits": [1, 32]}, "is not defined at 1 bit"),
        ({"quantizer": "lsqq"}, "quantizer 'lsqq' is unknown; choose from lsq"),
        ({"first_last": 32}, 'write "float"'),
        ({"first_last": "no"}, "is not an integer"),
        ({"norms": "both"}, "norms 'both' is unknown"),
        ({"include": ["layer9.*"]}, "'layer9.*' matches nothing; the layers are conv1"),
        ({"exclude": ["x"]}, "matches nothing"),
        ({"overrides": {"y": {"bits": 4}}}, "matches nothing"),
        ({"overrides": {"fc": {"width": 4}}}, "override 'width' of 'fc' is unknown"),
        ({"overrides": {"fc": {"bits": 99}}}, "99 is out of range"),
        ({"overrides": {"fc": {"quantizer": "no"}}}, "quantizer 'no' is unknown"),
        ({"exclude": ["*"]}, "leave no layer"),
        ({"per_channel": "banana"}, "per_channel is 'banana'; it must be True, False"),
        ({"overrides": {"fc": {"per_channel": "yes"}}}, "per_channel of override 'fc' is 'yes'"),
        ({"overrides": {"fc": 4}}, "override of 'fc' is 4, no mapping; overrides is a mapping such as"),
        ({"overrides": ["fc"]}, "needed is a mapping such as"),
        (
            {"bits": [1, 32], "quantizer": "dorefa", "first_last": "mode"},
            "the first layer would run at 1 bit",
        ),
        ({"bits": [1, 32], "first_last": "mode"}, "choose dorefa or sat"),
        ({"quantizer": "dorefa", "per_channel": True}, "per-channel weights are not defined"),
    ],
)
def test_bad_options_get_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(SmallNet(), **options)


def test_a_model_without_layers_or_quantized_already_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no quantizable layers"):
        quantize(nn.Sequential(nn.ReLU()))
    net = quantize(SmallNet(), [4, 32])
    for again in (net, net.model):
        with pytest.raises(ValueError, match="quantizable already"):
            quantize(again)


def test_the_advice_for_one_bit_holds() -> None:
    def vit() -> nn.Module:
        return timm.create_model("test_vit", num_classes=3)

    x = torch.randn(1, 3, 160, 160)
    with pytest.raises(ValueError, match=r'attention=True quantizes queries.*"w1a8"'):
        quantize(vit(), [1, 32], "dorefa", attention=True)
    quantize(vit(), ["w1a8", 32], "dorefa", attention=True).calibrate([x])
    with pytest.raises(ValueError, match=r"^layer 'blocks\.0\.attn\.qkv': 1-bit .*exclude.*\"w1a8\""):
        (net := quantize(vit(), [1, 32], "dorefa")).calibrate([x])
    assert not any(q.calibrating for q in net.quantizers().values())
    quantize(vit(), [1, 32], "dorefa", exclude="blocks.*").calibrate([x])
    for options in ({"first_last": 8}, {"first_last": "mode", "overrides": {"conv1": {"bits": 4}}}):
        quantize(SmallNet(), [1, 32], "dorefa", **options)
    quantize(SmallNet(), ["w1a8", 32], "dorefa", first_last="mode")


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="the model is 'resnet18'; needed is a network"):
        quantize("resnet18")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("apply", "remove"),
    [
        (nn.utils.weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
        (
            lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
            lambda layer: prune.remove(layer, "weight"),
        ),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_weights_computed_by_a_hook_are_refused_until_removed(apply: Any, remove: Any) -> None:
    model = SmallNet()
    apply(model.conv2)
    with pytest.raises(ValueError, match=r"^conv2: a hook computes the weight.*remove_weight_norm"):
        quantize(model)
    remove(model.conv2)
    model.eval()
    assert torch.equal(quantize(model, [4, 32]).eval()(x := images()), model(x))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers_are_refused_until_they_have_weights() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    with pytest.raises(ValueError, match=r"^0, 1: lazy layers .* run the model on one batch"):
        quantize(model)
    model(images())
    assert list(quantize(model).layers()) == ["0"]


def test_layers_that_stay_float_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix

    model = nn.Sequential(nn.Linear(4, 4), Odd())
    with pytest.warns(UserWarning, match=r"^1 \(Odd\): .* float in every mode \(50.0%"):
        net = quantize(model, [4, 32])
    net.set_bits(4)
    assert net(torch.randn(2, 4)).isfinite().all()
    assert isinstance(net.model[0], QuantLinear)
    assert isinstance(net.model[0].weight_quantizer, LSQWeight)


def test_a_copy_is_in_the_mode_of_the_original_module_by_module() -> None:
    """torch.fx forgets it in deepcopy: the norms of a feature extractor normalized by the batch."""
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    model = create_feature_extractor(resnet18().eval(), ["layer1"])
    x = torch.randn(2, 3, 32, 32)
    net = quantize(model, [4, 32])
    assert not any(module.training for module in net.modules())
    assert torch.equal(net(x)["layer1"], model(x)["layer1"])
    assert not any(module.training for module in net.to_float().modules())
