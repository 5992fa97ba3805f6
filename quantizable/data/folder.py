"""Folders of image files, ImageNet among them."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from quantizable.data.base import ImageDataModule, check_integer
from quantizable.data.evaluation_transform import evaluation_transform, resize_and_crop
from quantizable.data.files import FileLoader, Sample, verify_images
from quantizable.data.layout import IMAGENET, check_tested, class_folders
from quantizable.data.order import split

AUGMENTATIONS = {
    "none": [],
    "crop": [],
    "crop_flip": [v2.RandomHorizontalFlip()],
    "autoaugment": [v2.RandomHorizontalFlip(), v2.AutoAugment()],
    "randaugment": [v2.RandomHorizontalFlip(), v2.RandAugment()],
    "trivialaugment": [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
}


class Folder(ImageDataModule):
    """Images in `root`/train/CLASS/, `root`/val/CLASS/ and, optionally, `root`/test/CLASS/.

    With a test folder, val/ is the validation set. Without one, val/ is the test set, as is the
    custom with ImageNet, and the validation set is held out of the training images. `val_size`
    counts only where the validation set is held out, that is, where not both folders are there.

    Args:
        root: the folder.
        image_size: side of the images handed out, in pixels.
        in_chans: 3 for color, 1 for grey.
        num_workers: processes that decode images; 0 decodes in the training process.
        augment: none | crop | crop_flip | autoaugment | randaugment | trivialaugment. "crop" is
            the random resized crop of ImageNet training and part of all that follow.
        crop_fraction: share of the shorter side that the central crop of evaluation keeps,
            above 0, up to 1.
        verify: decode every image once before training, so that corrupt ones show at once.
        class_names: the names of the classes, by label, as a checkpoint knows them: the test set can then be
            read without train/. None: the folders of train/, sorted.

    The other arguments are those of `ImageDataModule`.
    """

    name = "The image folder"
    how = ""  # where the images come from, for the error that they are missing
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    def __init__(
        self,
        root: str | Path = "data/images",
        *,
        image_size: int = 224,
        in_chans: int = 3,
        batch_size: int = 64,
        num_workers: int = 2,
        val_size: int | float = 0.1,
        augment: str = "crop_flip",
        crop_fraction: float = 0.875,
        verify: bool = True,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, augment, seed, split_seed)
        if class_names is not None:
            self.class_names = tuple(map(str, class_names))
        if augment not in AUGMENTATIONS:
            raise ValueError(
                f"augment={augment!r} is not available here; choose from {', '.join(AUGMENTATIONS)}"
            )
        check_integer("image_size", image_size, 1)
        check_integer("num_workers", num_workers, 0)
        if in_chans not in (1, 3):
            raise ValueError(f"in_chans={in_chans}; an image file gives 1 (grey) or 3 (color)")
        if not isinstance(crop_fraction, int | float) or not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction={crop_fraction!r} is no share; give one above 0, up to 1")
        if not isinstance(verify, bool):
            raise ValueError(f"verify={verify!r} is neither true nor false")
        self.root, self.image_size, self.in_chans = Path(root), image_size, in_chans
        self.num_workers, self.crop_fraction, self.verify = num_workers, crop_fraction, verify
        if in_chans == 1:
            self.mean, self.std = (0.449,), (0.226,)  # the color channels' averages

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those given, else the folders of train/, sorted; a label is a position in this list."""
        return class_folders(self.root, self.name, self.how)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """(file, label) of every image, by set: train, val and test.

        Raises:
            FileNotFoundError: no training images, or neither val/ nor test/.
            ValueError: val/ or test/ have classes other than those of train/.
        """
        class_folders(self.root, self.name, self.how)  # raises where train/ is missing
        found = {"train": self._list("train")}
        found |= {part: self._list(part) for part in ("val", "test") if self._has(part)}
        check_tested(self.root)
        if len(found) == 2:  # train/ and one other, which is what is tested on
            train, val = split(len(found["train"]), self.val_size, self.split_seed)
            everything = found["train"]
            found["test"] = self.test_samples
            found["train"] = [everything[i] for i in train.tolist()]
            found["val"] = [everything[i] for i in val.tolist()]
        return found

    @cached_property
    def test_samples(self) -> list[Sample]:
        """(file, label) of the images to test on; errors as of `samples`."""
        _ = self.class_names  # what is wrong with train/ is said first
        check_tested(self.root)
        return self._list("test" if self._has("test") else "val")

    def prepare_data(self) -> None:
        """List the images and, with `verify`, decode each once.

        Raises:
            FileNotFoundError: folders are missing.
            ValueError: classes differ between the folders, or images are corrupt.
        """
        samples = self.samples
        if self.verify:
            verify_images([sample for part in samples.values() for sample in part])

    def prepare_test_data(self) -> None:
        """As `prepare_data`, for the test set alone; train/ is not needed where `class_names` was given."""
        if self.verify:
            verify_images(self.test_samples)

    def train_dataloader(self) -> FileLoader:
        """Shuffled and augmented training batches."""
        return self._loader(self.samples["train"], train=True)

    def val_dataloader(self) -> FileLoader | list[FileLoader]:  # type: ignore[override]
        """The validation images, cut centrally; an empty list where `val_size` is 0."""
        return self._loader(self.samples["val"], train=False) if self.samples["val"] else []

    def test_dataloader(self) -> FileLoader:
        """The test set, cut centrally."""
        return self._loader(self.test_samples, train=False)

    @cached_property
    def evaluation(self) -> dict[str, Any]:  # type: ignore[override]
        """The shorter side resized, the middle cut out."""
        return resize_and_crop(self.image_size, self.crop_fraction, "bicubic")

    def transform(self, train: bool) -> v2.Compose:
        """PIL image to normalized float32 (C, H, W)."""
        if not train or self.augment == "none":
            return evaluation_transform(self.evaluation, self.mean, self.std)
        crop = v2.RandomResizedCrop(self.image_size, interpolation=InterpolationMode.BICUBIC)
        to_float = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        return v2.Compose([crop, *AUGMENTATIONS[self.augment], *to_float, v2.Normalize(self.mean, self.std)])

    def _loader(self, samples: list[Sample], train: bool) -> FileLoader:
        rank, world_size = self.shard
        loader = FileLoader(
            samples,
            self.transform(train),
            self.batch_size,
            train,
            num_workers=self.num_workers,
            mode="RGB" if self.in_chans == 3 else "L",
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        loader.held = self.overfits
        return loader

    def _has(self, part: str) -> bool:
        return (self.root / part).is_dir()

    def _list(self, part: str) -> list[Sample]:
        names = self.class_names
        folder = ImageFolder(str(self.root / part))
        if different := set(folder.classes) ^ set(names):
            other = self.root / "train" if self._has("train") else "the network"
            raise ValueError(
                f"{self.root / part} and {other} do not hold the same classes; "
                f"only one of them has: {', '.join(sorted(different)[:5])}"
            )
        return [(file, names.index(folder.classes[label])) for file, label in folder.samples]


class ImageNet(Folder):
    """ImageNet (ILSVRC 2012): 1.28 million training images and 50 000 to test on, 1000 classes.

    The official validation images are the test set here, and the validation set is held out of
    the training images. Arguments are those of `Folder`.
    """

    name = "ImageNet"
    how = IMAGENET

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        *,
        image_size: int = 224,
        in_chans: int = 3,
        batch_size: int = 256,
        num_workers: int = 8,
        val_size: int | float = 10_000,
        augment: str = "crop_flip",
        crop_fraction: float = 0.875,
        verify: bool = False,  # decoding all of it takes an hour
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            image_size=image_size,
            in_chans=in_chans,
            batch_size=batch_size,
            num_workers=num_workers,
            val_size=val_size,
            augment=augment,
            crop_fraction=crop_fraction,
            verify=verify,
            class_names=class_names,
            seed=seed,
            split_seed=split_seed,
        )

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """1000, known before the images are there."""
        return 1000

    def prepare_data(self) -> None:
        """List the images and, with `verify`, decode each once.

        Raises:
            FileNotFoundError: folders are missing.
            ValueError: there are not 1000 classes, classes differ between the folders, or images
                are corrupt.
        """
        self._check_classes()
        super().prepare_data()

    def prepare_test_data(self) -> None:
        """As `prepare_data`, for the test set alone."""
        self._check_classes()
        super().prepare_test_data()

    def _check_classes(self) -> None:
        if (found := len(self.class_names)) != 1000:
            raise ValueError(
                f"{self.root}/train holds {found} classes, ImageNet has 1000; use data=folder for "
                "a part of it"
            )
