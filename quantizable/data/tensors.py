"""Image sets that fit in memory: uint8 tensors, whole batches augmented at once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quantizable.data.augment import Augmentation, epoch_draws
from quantizable.data.loader import Batch, EpochLoader


class TensorLoader(EpochLoader):
    """Batches of images held in memory, without worker processes.

    A batch of 128 CIFAR images takes a few milliseconds, a small part of a training step.

    Args:
        images: uint8 (N, C, H, W), on the device on which batches are wanted.
        labels: int64 (N,), there too.
        mean, std: per channel, of images in [0, 1].
        augmentation: applied to training batches only.

    The other arguments are those of `EpochLoader`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        train: bool,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(images), batch_size, train, seed, rank, world_size)
        self.images, self.labels = images, labels
        self.augmentation = augmentation if train else None
        self.mean = torch.tensor(mean, device=images.device).view(-1, 1, 1)
        self.std = torch.tensor(std, device=images.device).view(-1, 1, 1)

    def load(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield normalized (images, labels) for each batch of indices."""
        device = self.images.device
        # drawn on the CPU: the same numbers on every device
        draws = epoch_draws(self.size, self.seed, epoch).to(device) if self.augmentation else None
        fill = (self.mean * 255).round().to(torch.uint8).flatten()
        for positions in batches:
            index = positions.to(device)
            images = self.images[index]
            if self.augmentation is not None and draws is not None:
                images = self.augmentation(images, draws[index], fill)
            # (x / 255 - mean) / std, in place after the one conversion
            yield images.float().div_(255).sub_(self.mean).div_(self.std), self.labels[index]
