"""Data modules whose images fit in memory."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchvision.transforms import v2

from quantizable.data.augment import named_augmentation
from quantizable.data.base import ImageDataModule
from quantizable.data.order import split
from quantizable.data.tensors import TensorLoader

LabelledImages = tuple[Tensor, Tensor]


class MemoryDataModule(ImageDataModule):
    """A data module that holds its images as uint8 tensors and augments whole batches.

    Subclasses implement `read`. Arguments and attributes are those of `ImageDataModule`;
    `augment` is one of `named_augmentation`.
    """

    auto_policy = v2.AutoAugmentPolicy.CIFAR10  # AutoAugment's policy for this kind of image
    mirrors = True  # whether a mirrored image keeps its class

    def __init__(
        self,
        batch_size: int,
        val_size: int | float,
        augment: str,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__(batch_size, val_size, augment, seed, split_seed)
        self.augmentation = named_augmentation(augment, self.auto_policy, self.mirrors)
        self._train: LabelledImages | None = None
        self._val: LabelledImages | None = None
        self._test: LabelledImages | None = None

    @abstractmethod
    def read(self, train: bool) -> LabelledImages:
        """The whole training or test set: uint8 (N, C, H, W) and int64 (N,)."""

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test", "predict", None for all) needs."""
        if stage in (None, "fit", "validate") and self._train is None:
            images, labels = self.read(train=True)
            train, val = split(len(images), self.val_size, self.split_seed)
            self._train = images[train], labels[train]
            self._val = images[val], labels[val]
        if stage in (None, "test", "predict") and self._test is None:
            self._test = self.read(train=False)

    def train_dataloader(self) -> TensorLoader:
        """Shuffled and augmented training batches."""
        self.setup("fit")
        assert self._train is not None
        return self._loader(self._train, train=True)

    def val_dataloader(self) -> TensorLoader | list[TensorLoader]:  # type: ignore[override]
        """The held-out images, as they are; an empty list where `val_size` is 0."""
        self.setup("validate")
        assert self._val is not None
        return self._loader(self._val, train=False) if len(self._val[0]) else []

    def test_dataloader(self) -> TensorLoader:
        """The test set, as it is."""
        self.setup("test")
        assert self._test is not None
        return self._loader(self._test, train=False)

    @property
    def device(self) -> torch.device:
        """Where batches are made: the trainer's GPU, which then holds the images as uint8; else the CPU."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _loader(self, data: LabelledImages, train: bool) -> TensorLoader:
        images, labels = (x.to(self.device) for x in data)
        rank, world_size = self.shard
        loader = TensorLoader(
            images,
            labels,
            self.mean,
            self.std,
            self.batch_size,
            train,
            augmentation=self.augmentation,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        loader.held = self.overfits
        return loader


def channels_first(images: Tensor) -> Tensor:
    """(N, H, W, C) uint8 as contiguous (N, C, H, W)."""
    return images.permute(0, 3, 1, 2).contiguous().to(torch.uint8)
