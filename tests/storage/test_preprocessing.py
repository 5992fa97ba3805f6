"""``predict`` sees what ``evaluate`` saw: the same pixels for every data module, whatever the network."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import quantizable
from quantizable.data import Digits, Fake, Folder, Scene, Text
from quantizable.data.choice import DATAMODULES
from quantizable.data.published import CIFAR10, CIFAR100, MNIST, SVHN
from quantizable.models.create import create_model
from quantizable.network import QuantizableNetwork
from quantizable.storage.load import load_qz
from quantizable.storage.preprocessing import preprocessing, read_images
from quantizable.storage.qz import save_qz
from quantizable.training.description import describe
from tests.data.conftest import write_images

# timm's configurations of these say 224 pixels with crops 0.875 and 0.95, bilinear and bicubic
NETWORKS = ("resnet18", "mobilenetv2_100", "resnet20")


def trained_on(name: str, data: object, classes: int = 10) -> QuantizableNetwork:
    """A network that was trained on ``data``, as loading its checkpoint gives it."""
    model = create_model(name, classes, in_chans=data.in_chans, cifar_stem=name != "resnet20")
    network = quantizable.quantize(model, [4, 32])
    about = describe(network, {"model": name, "num_classes": classes, "model_options": {}}, data)
    network.info = {**about["data"], "model": name, "num_classes": classes, "model_options": {}}
    return network


def save(image: torch.Tensor, path: Path) -> Path:
    """One uint8 image ``[C, H, W]`` as a file without loss."""
    array = image.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path)
    return path


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, SVHN, MNIST, Fake, Digits])
def test_images_in_memory_are_seen_as_evaluate_sees_them(
    kind, network: str, tmp_path: Path, monkeypatch
) -> None:
    if kind in (CIFAR10, CIFAR100, SVHN, MNIST):  # their pixels do not matter here
        drawn = torch.randint(256, (5, kind.in_chans, kind.image_size, kind.image_size), dtype=torch.uint8)
        monkeypatch.setattr(kind, "read", lambda self, train: (drawn, torch.zeros(5, dtype=torch.long)))
    data = kind(batch_size=5)
    expected, _ = next(iter(data.test_dataloader()))
    raw, _ = data.read(train=False)
    files = [save(image, tmp_path / f"{i}.png") for i, image in enumerate(raw[: len(expected)])]
    found = read_images(files, preprocessing(trained_on(network, data)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"crop_fraction": 0.7}, {"in_chans": 1}])
def test_files_are_seen_as_evaluate_sees_them(options: dict, network: str, tmp_path: Path) -> None:
    write_images(tmp_path, "train", 2, ("cat", "dog"), seed=0)
    write_images(tmp_path, "val", 3, ("cat", "dog"), seed=1)
    data = Folder(tmp_path, image_size=30, num_workers=0, val_size=0, **options)
    expected, _ = next(iter(data.test_dataloader()))
    files = [Path(file) for file, _ in data.samples["test"]]
    found = read_images(files, preprocessing(trained_on(network, data, 2)))
    assert torch.equal(found, expected)


def test_every_data_module_was_compared() -> None:
    compared = {CIFAR10, CIFAR100, SVHN, MNIST, Fake, Digits, Folder}
    left = {kind for kind in DATAMODULES.values() if kind not in compared}
    # a scene has no image files; texts are compared in tests/training/test_text.py
    assert all(issubclass(kind, Folder) or kind in (Scene, Text) for kind in left)


def test_older_checkpoints_name_their_data() -> None:
    """The shipped network's file among them: no evaluation transform, but ``data``."""
    network = trained_on("resnet18", Fake())
    del network.info["evaluation"]
    network.info["data"] = "cifar100"
    assert preprocessing(network)["evaluation"] == {"resize": 32, "crop": 32, "interpolation": "bilinear"}
    network.info |= {"data": "folder", "settings": {"crop_fraction": 0.5}}
    assert preprocessing(network)["evaluation"] == {"resize": 64, "crop": 32, "interpolation": "bicubic"}
    assert "settings" not in preprocessing(network)


def test_a_network_without_data_is_seen_as_timm_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    model = timm.create_model("resnet18", num_classes=3)
    expected = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(
        Image.fromarray(pixels)
    )
    info = preprocessing(quantizable.quantize(model, [4]))
    assert torch.equal(read_images([tmp_path / "image.png"], info)[0], expected)


def test_a_network_of_other_channels_than_timm_says(tmp_path: Path) -> None:
    """`in_chans=` leaves timm's description of three channels as it is; files are of the network's own."""
    model = timm.create_model("test_resnet", in_chans=1, num_classes=4)
    network = quantizable.quantize(model, [4, 32]).eval()
    found = preprocessing(network)
    assert found["in_chans"] == 1
    assert not {"mean", "std"} & set(found)  # of three channels
    x = torch.randn(2, 1, 32, 32)
    network.calibrate([x])
    save_qz(network, tmp_path / "grey.qz")  # with golden samples of one channel
    again = load_qz(tmp_path / "grey.qz", timm.create_model("test_resnet", in_chans=1, num_classes=4))
    with network.at_bits(4), again.at_bits(4), torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=1e-4, atol=1e-4)
