"""What every data module offers, whatever its images are."""

import inspect
from abc import abstractmethod
from numbers import Integral
from pathlib import Path
from typing import Any

from quantizable.data.evaluation_transform import resize_and_crop
from quantizable.data.loader import EpochLoader
from quantizable.interface.lightning_package import pl


def check_integer(name: str, value: object, least: int) -> None:
    """``ValueError`` that names the argument if it is no integer of at least ``least``."""
    if not isinstance(value, Integral):
        raise ValueError(f"{name}={value!r} is no integer; give at least {least}")
    if int(value) < least:
        raise ValueError(f"{name}={value}; give at least {least}")


def plain_types(value: Any) -> Any:
    """Tuples as lists and paths as strings: what a checkpoint holds without any code."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


class DataModule(pl.LightningDataModule):
    """Labeled inputs as train, validation and test loaders.

    The validation set, on which the best checkpoint is chosen, is held out of the training
    inputs by a split of its own fixed seed. The test set appears in `test_dataloader` alone.

    Attributes:
        num_classes: number of classes.
        class_names: their names, by label.

    Args:
        batch_size: inputs per batch and process.
        val_size: held out of the training inputs: a count (int) or a fraction (float). With 0
            nothing is held out and there is no validation.
        seed: of order and augmentation, at least 0.
        split_seed: of the held-out split; keep it fixed when runs are compared.
    """

    num_classes: int
    class_names: tuple[str, ...]

    def __init__(self, batch_size: int, val_size: int | float, seed: int, split_seed: int) -> None:
        super().__init__()
        check_integer("batch_size", batch_size, 1)
        check_integer("seed", seed, 0)
        check_integer("split_seed", split_seed, 0)
        if not isinstance(val_size, int | float):
            raise ValueError(f"val_size={val_size!r} is no number; give a count or a fraction")
        self.batch_size, self.val_size = batch_size, val_size
        self.seed, self.split_seed = seed, split_seed

    @property
    def shard(self) -> tuple[int, int]:
        """(rank, world size): this process's share of every set."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def overfits(self) -> bool:
        """True if the trainer goes over the same few batches again and again (`overfit_batches`)."""
        return bool(getattr(self.trainer, "overfit_batches", 0))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments it was made from, in plain types: what it takes to make it again."""
        given = {key: getattr(self, key) for key in inspect.signature(type(self)).parameters}
        return {key: plain_types(value) for key, value in given.items()}

    def prepare_test_data(self) -> None:
        """As Lightning's `prepare_data`, for the test set alone where this can be had without the others."""
        self.prepare_data()

    @property
    @abstractmethod
    def model_options(self) -> dict[str, Any]:
        """What `create_model` must know of the inputs."""

    @abstractmethod
    def train_dataloader(self) -> EpochLoader:
        """Shuffled and augmented training batches."""

    @abstractmethod
    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """The held-out inputs, as they are; an empty list where `val_size` is 0."""

    @abstractmethod
    def test_dataloader(self) -> EpochLoader:
        """The test set, as it is."""

    def predict_dataloader(self) -> EpochLoader:
        """The test set: what `Trainer.predict` answers."""
        return self.test_dataloader()


class ImageDataModule(DataModule):
    """Labeled images as train, validation and test loaders.

    Attributes beside those of `DataModule`:
        in_chans: channels of an image.
        image_size: height and width in pixels.
        mean, std: per channel, of images in [0, 1]; the loaders' images have these removed.

    Args:
        augment: name of the augmentation of training images.

    The other arguments are those of `DataModule`.
    """

    in_chans: int = 3
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        batch_size: int,
        val_size: int | float,
        augment: str,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__(batch_size, val_size, seed, split_seed)
        self.augment = augment

    @property
    def model_options(self) -> dict[str, Any]:
        """The number of channels."""
        return {"in_chans": self.in_chans}

    @property
    def evaluation(self) -> dict[str, Any]:
        """What an image file goes through outside of training, as `evaluation_transform` takes it."""
        return resize_and_crop(self.image_size)
