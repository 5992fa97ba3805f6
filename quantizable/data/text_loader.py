"""Batches of texts held in memory as ids of their words."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quantizable.data.loader import Batch, EpochLoader
from quantizable.data.order import train_batches
from quantizable.data.words import padded


class TextLoader(EpochLoader):
    """Batches ``(ids int64 [N, L], labels int64 [N])``, padded.

    Texts of similar length train together, padded to the longest of their batch. In evaluation they come in
    the order of the file, all padded to the longest of the set.

    Args:
        texts: ids of the words, int64 ``[words]`` each.
        labels: int64 ``[N]``.

    The other arguments are those of `EpochLoader`.
    """

    def __init__(
        self,
        texts: Sequence[Tensor],
        labels: Tensor,
        batch_size: int,
        train: bool,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(texts), batch_size, train, seed, rank, world_size)
        self.texts, self.labels = texts, labels
        self.lengths = torch.tensor([len(text) for text in texts])

    def load(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield padded ids and labels for each batch of indices."""
        length = None if self.train else int(self.lengths.max())
        for index in batches:
            yield padded([self.texts[i] for i in index.tolist()], length), self.labels[index]

    def _batches(self, epoch: int) -> list[Tensor]:
        if not self.train:
            return super()._batches(epoch)
        share = self.rank, self.world_size
        return train_batches(self.size, self.batch_size, self.seed, epoch, *share, self.lengths)
