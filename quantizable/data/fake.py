"""Random images: for tests, profiling and dry runs without any data."""

import torch
from torch import Tensor

from quantizable.data.base import check_integer
from quantizable.data.memory import MemoryDataModule
from quantizable.seeds import generator


class Fake(MemoryDataModule):
    """Uniform noise with random labels, the same for the same seed; nothing can be learned of it.

    Args:
        size: number of training images; as many again are made for the test set.
        num_classes, in_chans, image_size: of what is to be imitated.

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        size: int = 256,
        num_classes: int = 10,
        in_chans: int = 3,
        image_size: int = 32,
        *,
        batch_size: int = 32,
        val_size: int | float = 0.25,
        augment: str = "none",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, augment, seed, split_seed)
        sizes = {"size": size, "num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
        for name, value in sizes.items():
            check_integer(name, value, 1)
        self.size, self.num_classes = size, num_classes
        self.in_chans, self.image_size = in_chans, image_size
        self.class_names = tuple(f"class {label}" for label in range(num_classes))
        self.mean = (0.5,) * in_chans
        self.std = (12**-0.5,) * in_chans  # of the uniform distribution on [0, 1]

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """`size` images and labels."""
        source = generator(self.seed, int(train))
        shape = (self.size, self.in_chans, self.image_size, self.image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=source)
        return images, torch.randint(self.num_classes, (self.size,), generator=source)
