"""The texts of an assessment: words as ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from quantizable.assess.corruptions.words import TEXT, Words, corrupt_text
from quantizable.assess.images import chosen
from quantizable.assess.word_neighbors import word_neighbors
from quantizable.data import Text
from quantizable.data.words import PADDING, padded


@dataclass(frozen=True)
class Texts:
    """Labeled texts.

    Args:
        ids: int64 ``[N, L]``, 0 behind the words, 1 for a word that the vocabulary lacks.
        labels: int64 ``[N]``.
        words: the vocabulary by id, and synonyms.
        class_names: by label.

    Raises:
        ValueError: there are no texts, numbers of texts and labels differ, or an id is out of range.
    """

    ids: Tensor
    labels: Tensor
    words: Words
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            raise ValueError("the data has no texts")
        if len(self.ids) != len(self.labels):
            raise ValueError(f"there are {len(self.ids)} texts but {len(self.labels)} labels")
        low, high, size = int(self.ids.min()), int(self.ids.max()), len(self.words.vocabulary)
        if low < 0 or high >= size:
            raise ValueError(f"ids reach from {low} to {high}, but the vocabulary has {size} words")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inputs(self) -> Tensor:
        """The ids: what a network is shown."""
        return self.ids

    def subset(self, index: Tensor) -> Texts:
        """The texts of these indices (or of this mask)."""
        return replace(self, ids=self.ids[index], labels=self.labels[index])

    def sample(self, count: int | None, seed: int = 0) -> Texts:
        """``count`` texts chosen at random, the same for the same seed; all of them for None."""
        return self.subset(chosen(len(self), count, seed))

    def with_synonyms(self, training: Tensor) -> Texts:
        """The same, with synonyms from training texts ``[N, L]`` in the same vocabulary."""
        neighbors = word_neighbors(training, len(self.words.vocabulary))
        return replace(self, words=replace(self.words, neighbors=neighbors))

    def suite(self) -> list[str]:
        """Names of the corruptions that can be made of these texts."""
        return [name for name in TEXT if name != "synonyms" or self.words.neighbors is not None]

    def corrupted(self, name: str, severity: int, seed: int = 0) -> Texts:
        """The texts after :func:`corrupt_text`, with its ``ValueError``."""
        return replace(self, ids=corrupt_text(self.ids, name, severity, self.words, seed))


def sentences(ids: Tensor, vocabulary: Sequence[str]) -> list[str]:
    """The words of each row of ids ``[N, L]``, with spaces between them."""
    return [" ".join(vocabulary[i] for i in row if i != PADDING) for row in ids.tolist()]


def texts_of(datamodule: Text, which: str = "test", count: int | None = None, seed: int = 0) -> Texts:
    """The test, validation or training texts of a data module, or some of them; without synonyms.

    Args:
        datamodule: with the vocabulary of the network.
        which: "test", "val" or "train".
        count, seed: as of :meth:`Texts.sample`.

    Raises:
        FileNotFoundError, ValueError: there are no such texts.
    """
    texts, labels = datamodule.texts(which)
    words, names = Words(tuple(datamodule.vocabulary)), tuple(datamodule.class_names)
    return Texts(padded(datamodule.encode(texts)), labels, words, names).sample(count, seed)
