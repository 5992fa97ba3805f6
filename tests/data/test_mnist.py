"""MNIST from IDX files: made here by hand, and the published test set where it is."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from quantizable.cli import main
from quantizable.data import MNIST
from quantizable.training.run import train
from tests.data.test_modules import contract
from tests.tiny import SHARED, config

PARTS = {"train": 80, "t10k": 30}


def write_idx(path: Path, values: np.ndarray) -> None:
    """LeCun's format: two zero bytes, 8 for unsigned bytes, the axes, their lengths big-endian, the bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def small_mnist(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A few images in which the bright row says the class, as ``root/MNIST/raw``; what was written."""
    rng, written = np.random.default_rng(0), {}
    for part, count in PARTS.items():
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 60, (count, 28, 28))
        images[np.arange(count), 4 + 2 * labels] = 255
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
        written[part] = images, labels
    return written


def test_it_reads_idx_files_and_keeps_the_promises_of_all_data(tmp_path: Path) -> None:
    written = small_mnist(tmp_path)
    data = MNIST(tmp_path, download=False, val_size=10, batch_size=8)
    contract(data)
    for train_part, part in ((True, "train"), (False, "t10k")):
        images, labels = data.read(train_part)
        assert np.array_equal(images.numpy(), written[part][0][:, None])
        assert labels.tolist() == written[part][1].tolist()
    with pytest.raises(ValueError, match="crop_flip"):
        MNIST(tmp_path, augment="crop_flip")


@pytest.mark.parametrize("damage", ["cut", "no IDX", "fewer labels"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    small_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-100])
    elif damage == "no IDX":
        images.write_bytes(b"<html>not found</html>")
    else:
        write_idx(labels, np.zeros(7))
    with pytest.raises(FileNotFoundError, match=r"MNIST is .*damaged in .*Download .*MNIST/raw") as error:
        MNIST(tmp_path, download=False).read(train=True)
    assert "\n" not in str(error.value)


def test_the_published_test_set(tmp_path: Path) -> None:
    source = SHARED / "data" / "mnist"
    if not source.is_dir():
        pytest.skip("MNIST's test set is not there; set QUANTIZABLE_SHARED to the folder with data/mnist")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file in source.glob("t10k-*.gz"):
        (tmp_path / "MNIST" / "raw" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    images, labels = MNIST(tmp_path, download=False).read(train=False)
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # as shown on every introduction
    pixels = images.float() / 255
    assert pixels.mean().item() == pytest.approx(MNIST.mean[0], abs=3e-3)  # those are of the training set
    assert pixels.std().item() == pytest.approx(MNIST.std[0], abs=3e-3)


def test_lenet_trains_on_it_in_all_modes_and_is_evaluated(tmp_path: Path) -> None:
    small_mnist(tmp_path / "data")
    words = [
        "data=mnist", f"data.root={tmp_path / 'data'}", "data.download=false", "data.val_size=16",
        "data.batch_size=16", "model=lenet5", "bits.modes=[2,8,32]", "trainer=cpu",
        "trainer.precision=32-true", "schedule.epochs=1", "run=digits",
    ]  # fmt: skip
    train(config(tmp_path, *words, small=False))
    checkpoint = tmp_path / "digits" / "best.ckpt"
    for file in (tmp_path / "data" / "MNIST" / "raw").glob("train-*"):  # the test set alone will do
        file.unlink()
    with pytest.raises(FileNotFoundError, match="MNIST is missing"):
        MNIST(tmp_path / "data", download=False).prepare_data()
    assert main(["evaluate", str(checkpoint), "--bits", "2,32", "--output", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "results.json").read_text())["modes"]
    assert [*found] == ["2", "32"]
    assert all(np.isfinite(values["loss"]) and 0 <= values["top1"] <= 1 for values in found.values())
    about = torch.load(checkpoint, weights_only=True)["quantizable"]
    assert about["model"] == "lenet5"
    assert (about["data"]["image_size"], about["data"]["in_chans"]) == (28, 1)
