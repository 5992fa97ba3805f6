"""The loader that all data modules share: seeded by epoch, sharded by rank, resumable."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import SequentialSampler

from quantizable.data.order import (
    eval_batch_count,
    eval_batches,
    train_batch_count,
    train_batches,
)

Batch = tuple[Tensor, Tensor]


class OwnOrder(SequentialSampler):
    """Where Lightning looks for `set_epoch`; of this kind, so that `overfit_batches` keeps it."""

    def __init__(self, loader: "EpochLoader") -> None:
        super().__init__(loader.dataset)
        self.loader = loader

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self.loader.set_epoch(epoch)


class EpochLoader(ABC):
    """An iterable of (images, labels) whose content is fixed by (seed, epoch, position).

    Images are float32 (B, C, H, W), normalized; labels int64 (B,). Lightning announces epochs
    through `loader.sampler.set_epoch` and saves and restores the position inside an epoch through
    `state_dict` and `load_state_dict`; in a loop of one's own, each full pass starts the next
    epoch by itself.

    Subclasses implement `load`, which turns index batches into tensors.

    Args:
        size: number of images.
        batch_size: images per batch and rank.
        train: True shuffles every epoch anew and drops the incomplete last batch; False visits
            every image exactly once, in a fixed order.
        seed: of order and augmentation, at least 0.
        rank, world_size: this process and the number of processes in distributed training.

    Raises:
        ValueError: `batch_size` below 1, `seed` below 0, or fewer images than ranks.
    """

    batch_sampler = None  # Lightning looks here before it looks at `sampler`

    def __init__(
        self,
        size: int,
        batch_size: int,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; give at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed}; give 0 or more")
        if size < world_size:
            raise ValueError(f"{size} images cannot be shared by {world_size} processes")
        self.size, self.batch_size, self.train, self.seed = size, batch_size, train, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.held = False  # True: every pass is that of the present epoch
        self._position = 0  # batches of this epoch handed out so far
        self._resume_at = 0  # where the next pass begins; not 0 only after load_state_dict

    @abstractmethod
    def load(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield (images, labels) for each batch of indices, as augmented in `epoch`."""

    def __len__(self) -> int:
        count = train_batch_count if self.train else eval_batch_count
        return count(self.size, self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: epoch and position are read when the first batch is asked for, since
        # Lightning makes the iterator before it announces the epoch.
        epoch, start, self._resume_at = self.epoch, self._resume_at, 0
        for position, batch in enumerate(self.load(self._batches(epoch)[start:], epoch), start + 1):
            # The position moves before the batch is handed out: a checkpoint written while the
            # last batch is in use continues with the next epoch.
            if position == len(self):
                self.epoch, self._position = epoch if self.held else epoch + 1, 0
            else:
                self.epoch, self._position = epoch, position
            yield batch

    def _batches(self, epoch: int) -> list[Tensor]:
        if self.train:
            return train_batches(self.size, self.batch_size, self.seed, epoch, self.rank, self.world_size)
        return eval_batches(self.size, self.batch_size, self.rank, self.world_size)

    @property
    def sampler(self) -> OwnOrder:
        """Where Lightning looks for `set_epoch`."""
        return OwnOrder(self)

    @property
    def dataset(self) -> range:
        """The images by number: where Lightning's search for a batch size looks for their count."""
        return range(self.size)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`; a restored position holds only for its own epoch."""
        if epoch != self.epoch and not self.held:
            self.epoch, self._position, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches of it that were handed out."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches that `state` counts."""
        self.epoch = state["epoch"]
        self._position = self._resume_at = state["position"]
