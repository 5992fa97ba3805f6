"""Small data sets on disk, and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder with the unpacked CIFAR sets, named by QUANTIZABLE_DATA."""
    root = Path(os.environ.get("QUANTIZABLE_DATA", "data"))
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFAR-10 is not there; set QUANTIZABLE_DATA to the folder that holds it")
    return root


def write_images(root: Path, part: str, count: int, classes: tuple[str, ...], seed: int) -> None:
    """`count` noise images of 40x48 pixels for each class."""
    rng = np.random.default_rng(seed)
    for name in classes:
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """An image folder: 2 classes, 10 training and 3 validation images each."""
    write_images(tmp_path, "train", 10, ("cat", "dog"), seed=0)
    write_images(tmp_path, "val", 3, ("cat", "dog"), seed=1)
    return tmp_path
