"""Handwritten digits that ship inside scikit-learn: real images without a download."""

import torch
from torch import Tensor
from torch.nn import functional as F

from quantizable.data.base import check_integer
from quantizable.data.memory import MemoryDataModule
from quantizable.data.order import split


class Digits(MemoryDataModule):
    """1797 grey 8x8 images of the digits 0 to 9 (UCI, 43 writers), enlarged to 16x16.

    16x16 is the smallest size at which a CIFAR network's three stages keep more than one pixel
    to work on, and a quarter of the cost of 32x32.

    scikit-learn defines no test set, so a fifth of the images (359), fixed once and for all, is
    set aside as one; the validation set is held out of the rest. Arguments are those of
    `ImageDataModule`, and `image_size`, in pixels. Digits are never mirrored.
    """

    num_classes = 10
    class_names = tuple("0123456789")
    in_chans = 1
    mean = (0.306,)
    std = (0.319,)
    mirrors = False

    def __init__(
        self,
        image_size: int = 16,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        augment: str = "crop",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        check_integer("image_size", image_size, 1)
        if image_size < 8:
            raise ValueError(f"image_size={image_size}; the digits have 8x8 pixels, give 8 or more")
        super().__init__(batch_size, val_size, augment, seed, split_seed)
        self.image_size = image_size

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """The 1438 training or the 359 test images."""
        from sklearn.datasets import load_digits  # here, as it takes a second that other data need not wait

        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)  # ink is 0 to 16
        size = (self.image_size, self.image_size)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        rest, test = split(len(images), 0.2, seed=0)
        keep = rest if train else test
        labels = torch.from_numpy(digits.target).long()
        return images.round().to(torch.uint8)[keep], labels[keep]
