"""The data that a network is asked about: prepared as it was trained, and labeled by its own names."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import quantizable
from quantizable.data import Digits
from quantizable.data.choice import match_classes, validation_loader
from quantizable.models.create import create_model
from quantizable.storage.network_data import trained_data
from quantizable.storage.preprocessing import preprocessing, read_images

ABOUT = {"in_chans": 3, "image_size": 24, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "num_classes": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures of two classes; those of dogs are brighter."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for low, name in ((0, "cat"), (100, "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = draw.integers(low, low + 100, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def network(**about: Any) -> Any:
    net = quantizable.quantize(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 2)), [4, 32])
    net.info = {**ABOUT, **about}
    return net


def words(root: Path, *more: str) -> list[str]:
    return ["data=folder", f"data.root={root}", "data.num_workers=0", "data.val_size=0", *more]


def test_folders_are_prepared_as_predict_prepares_their_files(root: Path) -> None:
    evaluation = {"resize": 26, "crop": 24, "interpolation": "bilinear"}
    net = network(evaluation=evaluation, class_names=["cat", "dog"])
    data = trained_data(net, words(root))
    data.setup("test")
    found = torch.cat([x for x, _ in data.test_dataloader()])
    files = sorted((root / "val").rglob("*.png"))
    torch.testing.assert_close(found, read_images(files, preprocessing(net)))
    given = trained_data(net, words(root, "data.image_size=30"))
    assert (given.image_size, given.evaluation["crop"]) == (30, 30)  # type: ignore[attr-defined]


def test_a_network_of_timm_says_how_photographs_are_prepared(root: Path) -> None:
    net = quantizable.quantize(create_model("vit_tiny_patch16_224", 2, img_size=32, depth=1), [8, 32])
    data: Any = trained_data(net, words(root))
    config = net.model.pretrained_cfg
    assert (data.mean, data.std) == (config["mean"], config["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert data.evaluation["resize"] == round(data.image_size / config["crop_pct"])


def test_labels_go_by_the_names_that_the_network_knows(root: Path) -> None:
    data: Any = trained_data(network(class_names=["dog", "cat"]), words(root))
    assert {Path(file).parent.name: label for file, label in data.test_samples} == {"dog": 0, "cat": 1}
    with pytest.warns(UserWarning, match=r"classes left, right, Folder has cat, dog; they are matched by"):
        trained_data(network(class_names=["left", "right"]), words(root))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained_data(network(class_names=["cat", "dog"]), words(root))
    backwards = SimpleNamespace(info={"class_names": [*"9876543210"]})
    with pytest.raises(ValueError, match="same classes in another order"):
        match_classes(backwards, Digits())  # type: ignore[arg-type]


def test_images_that_were_trained_on_are_not_held_out() -> None:
    data = Digits(val_size=0.2, split_seed=1)
    data.setup("fit")
    held = SimpleNamespace(info={"data": "digits", "settings": {"val_size": 0.1, "split_seed": 1}})
    with pytest.raises(ValueError, match=r"val_size=0.2 holds other images out .* leave data.val_size out"):
        validation_loader(held, data)  # type: ignore[arg-type]
