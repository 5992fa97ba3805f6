"""LeNet-1, LeNet-5 and Network in Network against what their authors published."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from quantizable import quantize
from quantizable.models.create import create_model

GREY, COLOR = (1, 28, 28), (3, 32, 32)


# by hand: LeNet-1 4 (25 + 1) + 12 (100 + 1) + 10 (192 + 1); LeNet-5 6 * 26 + 16 * 151 + 120 * 401 + 84 * 121
# + 10 * 85; NiN as the authors' file for CIFAR-10
@pytest.mark.parametrize(
    ("name", "shape", "parameters", "layers"),
    [("lenet1", GREY, 3246, 3), ("lenet5", GREY, 61_706, 5), ("nin", COLOR, 966_986, 9)],
)
def test_sizes_are_the_published_ones_and_all_modes_run(
    name: str, shape: tuple[int, ...], parameters: int, layers: int
) -> None:
    model = create_model(name, 10, shape[0])
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers
    assert timm.create_model(name).default_cfg["input_size"] == shape
    x = torch.randn(4, *shape)
    network = quantize(model.eval(), [2, 8, 32]).eval()
    network.calibrate([x])
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
        expected = network(x)
        assert len(expected.unique(dim=0)) == 4, "each image has an answer of its own"
        off = []
        for bits in (8, 2):
            with network.at_bits(bits):
                off.append(float((network(x) - expected).norm() / expected.norm()))
    assert 0 < off[0] < off[1] < 2
    assert len(network.layers()) == layers


def test_lenet1_computes_lecuns_layers() -> None:
    model = create_model("lenet1", 10, 1)
    x = torch.randn(2, *GREY)
    maps = F.avg_pool2d(F.conv2d(x, model.conv1.weight, model.conv1.bias).relu(), 2)
    assert maps.shape == (2, 4, 12, 12)
    maps = F.avg_pool2d(F.conv2d(maps, model.conv2.weight, model.conv2.bias).relu(), 2)
    assert maps.shape == (2, 12, 4, 4)
    torch.testing.assert_close(model(x), maps.flatten(1) @ model.fc.weight.T + model.fc.bias)


def test_images_of_another_size() -> None:
    assert create_model("lenet5", 10, 3, img_size=32)(torch.randn(2, *COLOR)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"images have 32x32 pixels.*28x28: give model.options=\{img_size"):
        create_model("lenet5", 10, 3)(torch.randn(2, *COLOR))
    with pytest.raises(ValueError, match="img_size=8 is too small"):
        create_model("lenet5", 10, img_size=8)


@pytest.mark.parametrize("name", ["lenet1", "lenet5", "nin"])
def test_no_network_of_timm_is_displaced(name: str) -> None:
    owners = [module for module in timm.list_modules() if name in timm.list_models(module=module)]
    assert owners in (["lenet"], ["nin"])
