"""Labeled texts from files, as ids of their words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizable.data.base import DataModule, check_integer
from quantizable.data.layout import check_texts
from quantizable.data.order import split
from quantizable.data.text_files import LabeledText, read_texts_file
from quantizable.data.text_loader import TextLoader
from quantizable.data.words import SPECIAL, encode, vocabulary_of

log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
Texts = tuple[list[str], Tensor]  # and their labels, int64 [N]


class Text(DataModule):
    """Texts with a label, from files with columns or of a sentence a line.

    Words are lower-cased; those of the training texts are the vocabulary. Batches are ``(ids int64 [N, L],
    labels int64 [N])``, padded by 0 behind the end of a text; a word that is not in the vocabulary is 1.

    Args:
        root: folder of the files.
        train: file of the training texts.
        val: file of the texts on which the best checkpoint is chosen; None: ``val_size`` is held out of
            ``train``.
        test: file of the test texts; None: ``test_size`` is held out of ``train``, always the same.
        layout: of all files, see `read_texts_file`: auto | columns | label_first | label_last.
        text_column, label_column: names of the columns where there are columns.
        class_names: names of the classes 0, 1, ...; a label in a file is a name, or a number where no name is
            one. None: the labels of ``train`` as they are written, sorted, are the names.
        skip_other_labels: leave texts of a label that is no class out, instead of refusing the file.
        vocabulary: words by id, as of a trained network; None: those of the training texts.
        min_frequency: words that come less often in the training texts are left out of the vocabulary.
        max_vocabulary: words in it at most, the most frequent ones; None: no limit.
        max_length: words of a text that are read; exported networks take texts padded to this length.
        test_size: held out where there is no file of test texts: a count or a fraction.

    The other arguments are those of `DataModule`; ``val_size`` counts only where ``val`` is None.

    Attributes:
        vocabulary: words by id.

    Raises:
        FileNotFoundError, ValueError: at once, or when the files are read: a missing file, a number out of
            range, or as `read_texts_file`; also labels that fit no class.
    """

    def __init__(
        self,
        root: str | Path = ".",
        train: str | Path = "train.tsv",
        val: str | Path | None = None,
        test: str | Path | None = None,
        *,
        layout: str = "auto",
        text_column: str = "text",
        label_column: str = "label",
        class_names: Sequence[str] | None = None,
        skip_other_labels: bool = False,
        vocabulary: Sequence[str] | None = None,
        min_frequency: int = 1,
        max_vocabulary: int | None = None,
        max_length: int = 64,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_size, seed, split_seed)
        check_integer("min_frequency", min_frequency, 1)
        check_integer("max_length", max_length, 1)
        if max_vocabulary is not None:
            check_integer("max_vocabulary", max_vocabulary, len(SPECIAL) + 1)
        if test is None and not (isinstance(test_size, int | float) and test_size > 0):
            raise ValueError(
                f"test_size={test_size!r} leaves no test texts; give more than 0, or a file: test"
            )
        self.root, self.train, self.val, self.test = root, train, val, test
        self.layout, self.text_column, self.label_column = layout, text_column, label_column
        self.skip_other_labels = skip_other_labels
        self.min_frequency, self.max_vocabulary = min_frequency, max_vocabulary
        self.max_length, self.test_size = max_length, test_size
        if class_names is not None:
            self.class_names = tuple(map(str, class_names))
            if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
                raise ValueError(f"class_names={list(self.class_names)}; give 2 or more different names")
        if vocabulary is not None:
            self.vocabulary = list(vocabulary)
        self._files: dict[str, list[LabeledText]] = {}
        self._ids: dict[str, tuple[list[Tensor], Tensor]] = {}

    # -- what there is to say of the data ------------------------------------------------------------

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the classes; a label is a position in this list."""
        rows = self._read(self.train)
        labels = {row.label for row in rows}
        if not 2 <= len(labels) <= max(len(rows) // 2, 2):
            raise ValueError(
                f"{self._path(self.train)} has {len(labels)} labels for {len(rows)} texts, as "
                f"{sorted(labels)[0][:40]!r}; give a file with 2 or more classes, or another data.layout"
            )
        try:
            return tuple(sorted(sorted(labels), key=int))
        except ValueError:  # words
            return tuple(sorted(labels))

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words by id; those of the training texts alone, without the ones held out."""
        return vocabulary_of(self.texts("train")[0], self.min_frequency, self.max_vocabulary)

    @property
    def input_size(self) -> tuple[int]:
        """Shape of one input of an exported network: its words."""
        return (self.max_length,)

    @property
    def input_ids(self) -> int:
        """How many ids there are."""
        return len(self.vocabulary)

    @property
    def model_options(self) -> dict[str, Any]:
        """The size of the vocabulary."""
        return {"vocabulary_size": len(self.vocabulary)}

    @property
    def settings(self) -> dict[str, Any]:
        """As of every data module, without the vocabulary: a checkpoint holds it beside them."""
        return {key: value for key, value in super().settings.items() if key != "vocabulary"}

    # -- texts -----------------------------------------------------------------------------------------

    def texts(self, part: str) -> Texts:
        """The texts of ``"train"``, ``"val"`` or ``"test"`` as they are written, and their labels.

        Raises:
            FileNotFoundError, ValueError: as the class says.
        """
        if part not in PARTS:
            raise ValueError(f"part {part!r} is none of {', '.join(PARTS)}")
        own = {"val": self.val, "test": self.test}.get(part)
        if own is not None:
            return self._labeled(own, self._read(own))
        rows, _ = self._read(self.train), self.class_names  # the layout is checked before a split
        rest = torch.arange(len(rows))
        if self.test is None:
            rest, test = split(len(rows), self.test_size, self.split_seed, of="texts", name="test_size")
        train, val = rest, rest[:0]
        if self.val is None:
            held = split(len(rest), self.val_size, self.split_seed, of="texts")
            train, val = (rest[index] for index in held)
        chosen = {"train": train, "val": val, "test": test if self.test is None else rest[:0]}[part]
        return self._labeled(self.train, [rows[i] for i in chosen.tolist()])

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Ids of the words of other texts, as of the loaders' own; see `quantizable.data.words.encode`."""
        return encode(texts, self.vocabulary, self.max_length)

    def _path(self, name: str | Path) -> Path:
        return Path(str(self.root)) / str(name)

    def _read(self, name: str | Path) -> list[LabeledText]:
        if str(name) not in self._files:
            self._files[str(name)] = read_texts_file(
                self._path(name), self.layout, self.text_column, self.label_column
            )
        return self._files[str(name)]

    def _labeled(self, name: str | Path, rows: list[LabeledText]) -> Texts:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        if not any(name.isdecimal() for name in numbers):  # then a number stands for the class
            numbers |= {str(number): number for number in range(self.num_classes)}
            if any(row.label in numbers and row.label.isdecimal() for row in rows):
                named = ", ".join(f"{number} = {name}" for number, name in enumerate(self.class_names))
                log.warning(
                    "%s: labels that are numbers stand for classes: %s", self._path(name), named[:200]
                )
        if self.skip_other_labels:
            rows = [row for row in rows if row.label in numbers]
        for row in rows:
            if row.label not in numbers:
                raise ValueError(
                    f"{self._path(name)}, line {row.line}: label {row.label[:40]!r} is none of "
                    f"{', '.join(self.class_names)[:200]}; data.skip_other_labels=true leaves such texts out"
                )
        if not rows:
            raise ValueError(f"{self._path(name)} has no text of {', '.join(self.class_names)[:200]}")
        return [row.text for row in rows], torch.tensor([numbers[row.label] for row in rows])

    # -- for Lightning ---------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """``FileNotFoundError`` for the first file that is not there."""
        needed = {"root": self.root, "test": self.test}
        # what was trained brings its words, and is tested where the others need not be
        if self.test is None or not {"vocabulary", "class_names"} <= vars(self).keys():
            needed |= {"train": self.train, "val": self.val}
        check_texts(needed)

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test", "predict", None for all) needs."""
        if stage in (None, "fit"):
            self._part("train")
        if stage in (None, "fit", "validate") and (self.val is not None or self.val_size):
            self._part("val")
        if stage in (None, "test", "predict"):
            self._part("test")

    def _part(self, part: str) -> tuple[list[Tensor], Tensor]:
        if part not in self._ids:
            texts, labels = self.texts(part)
            self._ids[part] = self.encode(texts), labels
        return self._ids[part]

    def train_dataloader(self) -> TextLoader:
        """Shuffled training batches, each of texts of similar length."""
        return self._loader("train")

    def val_dataloader(self) -> TextLoader | list[TextLoader]:  # type: ignore[override]
        """The held-out texts, in order; an empty list where none are held out."""
        return self._loader("val") if self.val is not None or self.val_size else []

    def test_dataloader(self) -> TextLoader:
        """The test texts, in order."""
        return self._loader("test")

    def _loader(self, part: str) -> TextLoader:
        rank, world = self.shard
        train = part == "train"
        return TextLoader(
            *self._part(part), self.batch_size, train, seed=self.seed, rank=rank, world_size=world
        )
