import pytest
import timm
import torch
import torchvision
from torch import nn

from quantizable.models.create import create_model
from quantizable.models.stem import first_conv

SMALL = torch.randn(2, 3, 32, 32)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# He et al. 2016, table 6, in millions
@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [("resnet20", 20, 0.27), ("resnet32", 32, 0.46), ("resnet56", 56, 0.85)],
)
def test_cifar_resnets_have_the_published_size(name, layers, millions):
    model = timm.create_model(name)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers
    assert model(SMALL).shape == (2, 10)


def test_option_a_shortcut_equals_a_loop():
    shortcut = create_model("resnet20", 10).layer2[0].shortcut
    x = torch.randn(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    for channel in range(16):
        for row in range(4):
            for column in range(4):
                expected[:, channel + 8, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(shortcut(x), expected)


def test_cifar_resnets_have_timms_interface():
    model = create_model("resnet20", num_classes=7, in_chans=1)
    x = torch.randn(2, 1, 32, 32)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 8, 8)
    assert model.forward_head(features, pre_logits=True).shape == (2, 64)
    assert torch.equal(model.eval()(x), model.forward_head(model.forward_features(x)))
    assert model.get_classifier() is model.linear
    model.reset_classifier(3)
    assert (model.num_classes, model(x).shape) == (3, (2, 3))
    model.reset_classifier(0)
    assert model(x).shape == (2, 64)
    with pytest.raises(ValueError, match="pools by 'avg' only"):
        model.reset_classifier(3, "max")
    assert model.default_cfg["classifier"] == "linear"
    backbone = timm.create_model("resnet20", features_only=True)
    assert [f.shape[1] for f in backbone(SMALL)] == [16, 32, 64]


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_no_network_of_timm_is_displaced(name):
    owners = [module for module in timm.list_modules() if name in timm.list_models(module=module)]
    assert owners == ["cifar_resnet"]


def test_without_options_it_is_the_librarys_network():
    torch.manual_seed(0)
    ours = create_model("mobilenetv3_small_100", 10, in_chans=1)
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv3_small_100", num_classes=10, in_chans=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert isinstance(create_model("torchvision:resnet18", 10), torchvision.models.ResNet)


@pytest.mark.parametrize(
    ("name", "side"),  # of the last feature map, from 32x32 pixels
    [
        ("resnet18", 4),
        ("resnet50d", 4),
        ("resnet20", 8),
        ("nf_resnet26", 4),
        ("densenet121", 4),
        ("convnext_atto", 4),
        ("mobilenetv2_100", 2),
        ("mobilenetv3_small_100", 2),
        ("tf_efficientnet_b0", 2),
        ("regnetx_002", 2),
        ("vgg11_bn", 1),
    ],
)
def test_cifar_stem(name, side):
    model = create_model(name, 10, cifar_stem=True).eval()
    conv = first_conv(model)[1]
    assert conv.stride == (1, 1)
    assert conv.kernel_size == (3, 3)
    assert type(conv) is type(first_conv(timm.create_model(name))[1])
    assert model.forward_features(SMALL).shape[-2:] == (side, side)
    assert model(SMALL).shape == (2, 10)


@pytest.mark.parametrize("in_chans", [1, 3, 5])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "regnet_x_400mf"])
def test_torchvision(name, in_chans):
    model = create_model(f"torchvision:{name}", 10, in_chans, cifar_stem=True).eval()
    assert model(torch.randn(2, in_chans, 32, 32)).shape == (2, 10)
    assert first_conv(model)[1].stride == (1, 1)


def test_pretrained_torchvision_weights_get_a_new_classifier(monkeypatch):
    published = torchvision.models.resnet18(num_classes=1000)
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights,
        "get_state_dict",
        lambda *a, **k: published.state_dict(),
    )
    x = torch.randn(2, 3, 64, 64)
    whole = create_model("torchvision:resnet18", 1000, pretrained=True)
    assert torch.equal(whole.eval()(x), published.eval()(x))
    part = create_model("torchvision:resnet18", 10, in_chans=1, pretrained=True)
    assert part.fc.out_features == 10
    # a grey image gives what the same image in three equal channels gave
    grey = x[:, :1]
    expected = published.conv1(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(part.conv1(grey), expected, atol=1e-5, rtol=1e-5)


def test_vit_takes_its_image_size():
    model = create_model("vit_tiny_patch16_224", 10, img_size=32, patch_size=4)
    assert model(SMALL).shape == (2, 10)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "torchvision:vit_b_16"]
)
def test_patch_networks_have_no_stem(name):
    with pytest.raises(ValueError, match="img_size=32, patch_size=4"):
        create_model(name, 10, cifar_stem=True)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnt18", "resnet18"),
        ("hf:resnt18", "resnet18"),
        ("resnet21", "resnet20"),
        ("torchvision:resnet17", "torchvision:"),
    ],
)
def test_unknown_names_get_close_ones(name, suggestion):
    with pytest.raises(ValueError, match=f"unknown model '{name}': did you mean .*{suggestion}"):
        create_model(name, 10)


def test_other_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="num_classes=0"):
        create_model("resnet18", 0)
    with pytest.raises(ValueError, match="in_chans=0"):
        create_model("resnet18", 10, in_chans=0)
    with pytest.raises(ValueError, match="no published weights of 'resnet20'"):
        create_model("resnet20", 10, pretrained=True)

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(OSError, match=r"cannot be downloaded.*no network.*pretrained=False"):
        create_model("resnet18", 10, pretrained=True)
