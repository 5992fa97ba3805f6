"""Hyperspectral scenes: a planted one, Samson where it is, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from quantizable.assess.images import images_of
from quantizable.data import Scene
from quantizable.models.create import create_model
from tests.tiny import SHARED

SAMSON = SHARED / "data" / "hyperspectral" / "Samson.mat"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """20 x 30 pixels of 6 bands; the value tells the pixel: 30 row + column + 1000 band."""
    rows, columns, bands = np.arange(20)[:, None, None], np.arange(30)[:, None], np.arange(6)
    cube = (30 * rows + columns + 1000 * bands).astype(float)
    labels = 1 + (np.arange(600).reshape(20, 30) % 3)
    labels[0] = 0  # not labeled
    flat = cube.transpose(2, 0, 1).reshape(6, 600, order="F")
    savemat(tmp_path / "scene.mat", {"cube": cube, "flat": flat, "map": labels})
    return tmp_path / "scene.mat"


@pytest.mark.parametrize("cube", ["cube", "flat"])
def test_patches_are_centred_on_their_pixel(file: Path, cube: str) -> None:
    scene = Scene(file, cube, "map", patch=3, block=5)
    assert (scene.in_chans, scene.num_classes, scene.image_size) == (6, 3, 3)
    pixels, labels = scene.read(train=False)
    center = (pixels[:, 0, 1, 1] / 255 * 5599).round().long()  # 30 row + column
    assert torch.equal(labels, center % 3)
    assert (center >= 30).all()  # the unlabeled first row is left out
    inner = (center % 30 > 0) & (center % 30 < 29) & (center < 570)
    torch.testing.assert_close(
        (pixels[:, 0, 1, 2] / 255 * 5599)[inner], center[inner] + 1.0, atol=0.01, rtol=0
    )


def test_no_training_patch_touches_a_test_pixel(file: Path) -> None:
    scene = Scene(file, "cube", "map", patch=3, block=5)
    values = [(scene.read(train)[0][:, 0] / 255 * 5599).round().long() for train in (True, False)]
    assert not torch.isin(values[0].flatten(), values[1][:, 1, 1]).any()
    assert min(map(len, values)) > 50


def test_what_cannot_be_read_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no labels 'S_GT'; it holds cube, flat, map"):
        Scene(file, "cube")
    with pytest.raises(FileNotFoundError, match=r"no scene .*absent\.mat"):
        Scene(tmp_path / "absent.mat")
    (tmp_path / "text.mat").write_text(
        "spectra, labels and more text than any header of a file would have" * 9
    )
    with pytest.raises(ValueError, match="no MATLAB file"):
        Scene(tmp_path / "text.mat")
    with pytest.raises(ValueError, match="patch=4"):
        Scene(file, "cube", "map", patch=4)
    savemat(tmp_path / "nan.mat", {"Y": np.full((4, 6), np.nan), "S_GT": np.ones((2, 3))})
    with pytest.raises(ValueError, match="NaN"):
        Scene(tmp_path / "nan.mat")
    savemat(tmp_path / "bare.mat", {"Y": np.arange(1600.0).reshape(20, 20, 4), "S_GT": np.zeros((20, 20))})
    with pytest.raises(ValueError, match="no pixel is labeled"):
        Scene(tmp_path / "bare.mat")
    savemat(tmp_path / "odd.mat", {"Y": np.ones((4, 7)), "S_GT": np.ones((2, 3))})
    with pytest.raises(ValueError, match="do not fit"):
        Scene(tmp_path / "odd.mat")


@pytest.mark.skipif(not SAMSON.exists(), reason="the Samson scene is not there (set QUANTIZABLE_SHARED)")
def test_samson_is_read_as_described() -> None:
    scene = Scene(SAMSON)
    assert torch.bincount(scene.map.flatten()).tolist() == [3015, 3666, 2344]
    assert scene.spectra.shape == (156, 95, 95)
    images = images_of(scene)
    assert images.pixels.shape[1:] == (156, 7, 7)
    logits = create_model("patch_cnn", scene.num_classes, scene.in_chans)(images.pixels[:2])
    assert logits.shape == (2, 3)
