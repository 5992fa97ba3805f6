"""Hyperspectral scenes: one image of many bands, classified pixel by pixel from the patch around each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quantizable.data.base import check_integer
from quantizable.data.layout import check_scene
from quantizable.data.memory import MemoryDataModule


class Scene(MemoryDataModule):
    """Patches of a scene in a MATLAB file, labeled by their middle pixel.

    Training and test pixels come from different blocks of the scene, dealt out like a chessboard's fields
    (two of five are tested), and no training patch overlaps a test pixel: neighbors are nearly equal, and a
    random split would ask for what was trained on.

    Args:
        file: MATLAB file (up to version 7.2).
        cube: its variable with the spectra, ``[bands, pixels]`` (pixels in column order) or ``[rows, columns,
            bands]``.
        labels: its variable with the labels: abundances ``[rows, columns, classes]``, of which the largest
            counts, or a map ``[rows, columns]`` of integers in which 0 means "not labeled".
        patch: side of a patch in pixels, odd.
        block: side of a block in pixels.
        class_names: by label; None: numbers.

    The other arguments are those of `ImageDataModule`; augmentation is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a variable is missing (a scene without labels, say), or its shape does not fit.
    """

    def __init__(
        self,
        file: str | Path,
        cube: str = "Y",
        labels: str = "S_GT",
        *,
        patch: int = 7,
        block: int = 19,
        class_names: list[str] | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, "none", seed, split_seed)
        check_integer("patch", patch, 1)
        check_integer("block", block, 1)
        if patch % 2 == 0:
            raise ValueError(f"patch={patch}; give an odd number, so that there is a middle pixel")
        if block <= patch:
            raise ValueError(f"block={block}; give more than the patch's {patch} pixels")
        self.file, self.cube, self.labels = Path(file), cube, labels
        self.image_size, self.patch, self.block = patch, patch, block
        self.spectra, self.map = read_scene(self.file, cube, labels)
        self.in_chans = self.spectra.shape[0]
        self.num_classes = int(self.map.max()) + 1
        self.class_names = tuple(class_names or (f"class {label}" for label in range(self.num_classes)))
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"the scene has {self.num_classes} classes, {len(self.class_names)} names were given"
            )
        train = self.spectra[:, self._rows(True)[0], self._rows(True)[1]]
        self.mean = tuple(train.mean(1).tolist())
        self.std = tuple(train.std(1).clamp_min(1e-3).tolist())

    def _rows(self, train: bool) -> tuple[Tensor, Tensor]:
        """Rows and columns of the labeled training or test pixels."""
        height, width = self.map.shape
        row, column = torch.arange(height)[:, None] // self.block, torch.arange(width) // self.block
        test = (row + 2 * column) % 5 % 2 == 1
        near = F.max_pool2d(test.float()[None], self.image_size, 1, self.image_size // 2)[0] > 0
        rows, columns = torch.where((self.map >= 0) & (~near if train else test))
        return rows, columns

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Patches float32 (N, bands, patch, patch) from 0 to 255, and int64 (N,).

        Float, as spectra have more than 256 levels; to 255, as the loader divides by it.
        """
        rows, columns = self._rows(train)
        half = self.image_size // 2
        padded = F.pad(self.spectra[None], [half] * 4, mode="reflect")[0]
        # (bands, H, W, patch, patch), a view of every patch
        patches = padded.unfold(1, self.image_size, 1).unfold(2, self.image_size, 1)
        return patches[:, rows, columns].movedim(1, 0) * 255, self.map[rows, columns]


def read_scene(file: Path, cube: str, labels: str) -> tuple[Tensor, Tensor]:
    """Spectra float32 ``[bands, H, W]`` scaled to [0, 1] and labels int64 ``[H, W]``, -1 where there is none.

    Raises: as :class:`Scene`.
    """
    check_scene(file)
    from scipy.io import loadmat  # here, as other data need not wait for it

    try:
        contents = loadmat(file)
    except Exception as error:  # scipy raises many kinds, also for files of version 7.3
        raise ValueError(
            f"{file} is no MATLAB file that can be read ({error}); save it as version 7"
        ) from error
    for key, what in ((cube, "spectra"), (labels, "labels")):
        if key not in contents:
            names = ", ".join(name for name in contents if not name.startswith("__"))
            raise ValueError(f"{file} has no {what} {key!r}; it holds {names}. Set data.cube and data.labels")
    truth, spectra = contents[labels], contents[cube].astype(np.float32)
    classes = truth.argmax(2) if truth.ndim == 3 else truth.astype(np.int64) - 1
    if spectra.ndim == 2:
        if classes.ndim != 2 or spectra.shape[1] != classes.size:
            raise ValueError(
                f"{file}: spectra {spectra.shape} and labels {truth.shape} do not fit each other"
            )
        spectra = spectra.reshape(-1, *classes.shape, order="F")
    else:
        spectra = spectra.transpose(2, 0, 1)
    if classes.ndim != 2 or spectra.shape[1:] != classes.shape:
        raise ValueError(f"{file}: spectra {spectra.shape} and labels {truth.shape} do not fit each other")
    if classes.max() < 0:
        raise ValueError(f"{file}: no pixel is labeled in {labels!r}; there is nothing to train or test on")
    if not np.isfinite(spectra).all():
        raise ValueError(f"{file}: the spectra hold NaN or infinite values")
    low, high = float(spectra.min()), float(spectra.max())
    if high == low:
        raise ValueError(f"{file}: all values of the spectra are equal")
    return torch.from_numpy((spectra - low) / (high - low)), torch.from_numpy(np.ascontiguousarray(classes))
