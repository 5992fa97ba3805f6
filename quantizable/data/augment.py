"""Augmentation of whole uint8 batches in memory.

The image i of epoch e is augmented from its own row of uniform random numbers, drawn from
(seed, e) for all images at once. So what happens to an image depends neither on the batch or
process it lands in nor on where an interrupted epoch was resumed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from quantizable.seeds import generator, seeded

# Columns of the table of draws.
CROP_Y, CROP_X, FLIP, CUTOUT_Y, CUTOUT_X, POLICY, ALTERNATING_FLIP = range(7)


def epoch_draws(size: int, seed: int, epoch: int) -> Tensor:
    """The random numbers of one epoch: (size, 7), uniform in [0, 1).

    All are drawn anew in each epoch but the last column, which moves by one half from epoch to epoch: an
    image whose draw is below one half in one epoch is above it in the next.
    """
    fresh = torch.rand(size, 6, generator=generator(seed, epoch, 1))
    first = torch.rand(size, 1, generator=generator(seed, 0, 2))
    return torch.cat([fresh, (first + epoch % 2 / 2) % 1], dim=1)


def random_crop(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Pad (B, C, H, W) by `padding` black pixels on each side and cut H x W out at random.

    `draws` is (B, 2), uniform in [0, 1): the vertical and horizontal offset.
    """
    height, width = images.shape[-2:]
    offset = (draws * (2 * padding + 1)).long()
    padded = F.pad(images, [padding] * 4)
    # (B, 2p+1, 2p+1, C, H, W), a view of every possible crop
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    return crops[torch.arange(len(images), device=images.device), offset[:, 0], offset[:, 1]]


def random_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror each of (B, C, H, W) left to right where its draw (B,) is below one half."""
    return torch.where((draws < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)


def cutout(images: Tensor, draws: Tensor, size: int, fill: Tensor) -> Tensor:
    """Paint a `size` x `size` square around a random pixel with `fill` (C,).

    Parts of the square beyond the border are lost (DeVries and Taylor 2017). `draws` is (B, 2),
    uniform in [0, 1): the vertical and horizontal position of the center.
    """

    def covered(length: int, draw: Tensor) -> Tensor:  # (B, length)
        start = (draw * length).long()[:, None] - size // 2
        pixel = torch.arange(length, device=draw.device)
        return (pixel >= start) & (pixel < start + size)

    height, width = images.shape[-2:]
    hole = covered(height, draws[:, 0])[:, :, None] & covered(width, draws[:, 1])[:, None, :]
    return torch.where(hole[:, None], fill.view(1, -1, 1, 1), images)


def per_image(images: Tensor, draws: Tensor, policy: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a torchvision v2 policy to each of (B, C, H, W) uint8, seeded by its draw (B,)."""
    augmented = []
    for image, draw in zip(images, draws.tolist(), strict=True):
        with seeded(int(draw * 2**24)):  # float32 draws hold 24 random bits
            augmented.append(policy(image))
    return torch.stack(augmented)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image, in this order: crop, flip, policy, cutout.

    Args:
        crop: pad by an eighth of the side (4 of 32 pixels) and crop back.
        flip: mirror half of the images by chance.
        alternating_flip: mirror each image in every other epoch (Jordan, arXiv:2404.00498, sec. 3.6): half
            of the images in the first epoch, the others in the second, and so on.
        policy: a torchvision v2 policy for uint8 images (RandAugment and the like).
        cutout: side of the blanked square as a fraction of the image's side; 0 for none.
    """

    crop: bool = False
    flip: bool = False
    policy: Callable[[Tensor], Tensor] | None = None
    cutout: float = 0.0
    alternating_flip: bool = False

    def __call__(self, images: Tensor, draws: Tensor, fill: Tensor) -> Tensor:
        """Augment (B, C, H, W) uint8 by their `draws` (B, 7); `fill` (C,) uint8 for cutout; one device."""
        side = images.shape[-1]
        if self.crop:
            images = random_crop(images, draws[:, [CROP_Y, CROP_X]], side // 8)
        if self.flip:
            images = random_flip(images, draws[:, FLIP])
        if self.alternating_flip:
            images = random_flip(images, draws[:, ALTERNATING_FLIP])
        if self.policy is not None:
            images = per_image(images, draws[:, POLICY], self.policy)
        if self.cutout:
            size = round(self.cutout * side)
            images = cutout(images, draws[:, [CUTOUT_Y, CUTOUT_X]], size, fill)
        return images


def named_augmentation(
    name: str, auto_policy: v2.AutoAugmentPolicy = v2.AutoAugmentPolicy.CIFAR10, flip: bool = True
) -> Augmentation:
    """The augmentation of that name.

    Args:
        name: none | crop | crop_flip | crop_alternating_flip | cutout | autoaugment | randaugment |
            trivialaugment. The last four come on top of crop and flip. The three policies work image by
            image and take some 40 times as long as crop and flip.
        auto_policy: the data set whose AutoAugment policy is used.
        flip: False where a mirrored image would change class (digits): "crop_flip" and
            "crop_alternating_flip" are then refused and the policies come on top of crop alone.

    Raises:
        ValueError: the name is unknown or does not fit the data set.
    """
    table = {
        "none": lambda: Augmentation(),
        "crop": lambda: Augmentation(crop=True),
        "crop_flip": lambda: Augmentation(crop=True, flip=True),
        "crop_alternating_flip": lambda: Augmentation(crop=True, alternating_flip=True),
        "cutout": lambda: Augmentation(crop=True, flip=flip, cutout=0.5),
        "autoaugment": lambda: Augmentation(True, flip, v2.AutoAugment(auto_policy)),
        "randaugment": lambda: Augmentation(True, flip, v2.RandAugment()),
        "trivialaugment": lambda: Augmentation(True, flip, v2.TrivialAugmentWide()),
    }
    if not flip:
        del table["crop_flip"], table["crop_alternating_flip"]
    if name not in table:
        raise ValueError(f"augment={name!r} is not available here; choose from {', '.join(table)}")
    return table[name]()
