"""What an assessment is made of: labeled inputs of one kind, images or texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

from torch import Tensor

from quantizable.assess.images import Images, images_of
from quantizable.assess.texts import Texts, texts_of
from quantizable.data import ImageDataModule, Text
from quantizable.data.base import DataModule


class Examples(Protocol):
    """What :class:`Images` and :class:`Texts` share."""

    @property
    def inputs(self) -> Tensor:
        """What the models are shown ``[N, ...]``."""

    @property
    def labels(self) -> Tensor:
        """``[N]``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label."""

    def __len__(self) -> int: ...

    def subset(self, index: Tensor) -> Self:
        """Those of these indices (or of this mask)."""

    def suite(self) -> Iterable[str]:
        """Names of the corruptions that suit them; ``ValueError`` if none are known for such inputs."""

    def corrupted(self, name: str, severity: int, seed: int = 0) -> Self:
        """Corrupted ones, the same for the same seed; ``ValueError`` for an unknown name or severity."""


def examples_of(
    datamodule: DataModule, which: str = "test", count: int | None = None, seed: int = 0
) -> Images | Texts:
    """As :func:`images_of` or :func:`texts_of`, whichever suits the data."""
    if isinstance(datamodule, Text):
        return texts_of(datamodule, which, count, seed)
    assert isinstance(datamodule, ImageDataModule)
    return images_of(datamodule, which, count, seed)
