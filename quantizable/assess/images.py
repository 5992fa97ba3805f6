"""The images of an assessment: pixels in [0, 1], before any normalization."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizable.assess.corruptions import corrupt, suite
from quantizable.data import ImageDataModule
from quantizable.data.memory import MemoryDataModule
from quantizable.seeds import generator


@dataclass(frozen=True)
class Images:
    """Labeled images in units of pixels, so that whatever changes them comes before the one normalization.

    Args:
        pixels: float32 ``[N, C, H, W]`` in [0, 1].
        labels: int64 ``[N]``.
        class_names: by label.

    Raises:
        ValueError: there are no images, numbers of images and labels differ, or values are NaN or outside [0,
            1].
    """

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.pixels) == 0:
            raise ValueError("the data has no images")
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"there are {len(self.pixels)} images but {len(self.labels)} labels")
        if not torch.isfinite(self.pixels).all():
            bad = (~torch.isfinite(self.pixels).flatten(1).all(1)).nonzero().flatten().tolist()
            raise ValueError(f"{len(bad)} images hold NaN or infinite values; the first is number {bad[0]}")
        low, high = self.pixels.min().item(), self.pixels.max().item()
        if low < 0 or high > 1:
            raise ValueError(f"pixels are in [{low:.3g}, {high:.3g}]; give images in [0, 1], not normalized")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def inputs(self) -> Tensor:
        """The pixels: what a model is shown."""
        return self.pixels

    def subset(self, index: Tensor) -> Images:
        """The images of these indices (or of this mask)."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def sample(self, count: int | None, seed: int = 0) -> Images:
        """``count`` images chosen at random, the same for the same seed; all of them for None."""
        return self.subset(chosen(len(self), count, seed))

    def suite(self) -> list[str]:
        """Names of the corruptions that suit these images; ``ValueError`` if there are none for as many
        channels."""
        return list(suite(self.pixels.shape[1]))

    def corrupted(self, name: str, severity: int, seed: int = 0) -> Images:
        """The images after :func:`corrupt`, with its ``ValueError``."""
        return replace(self, pixels=corrupt(self.pixels, name, severity, seed))


def chosen(total: int, count: int | None, seed: int = 0) -> Tensor:
    """Sorted indices of ``count`` of ``total`` images at random, the same for the same seed; all for None.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count is None or count >= total:
        return torch.arange(total)
    if count < 1:
        raise ValueError(f"{count} images are asked for; give at least 1")
    return torch.randperm(total, generator=generator(seed))[:count].sort().values


def images_of(
    datamodule: ImageDataModule, which: str = "test", count: int | None = None, seed: int = 0
) -> Images:
    """The test, validation or (unaugmented) training images of a data module, or some of them.

    Args:
        datamodule: its loaders yield normalized images; the normalization is taken back.
        which: "test", "val" or "train" (whole batches of them; only of data that fit in memory).
        count, seed: as of :meth:`Images.sample`; no more than these are held in memory.

    Raises:
        ValueError: there are no such images, or they come augmented only.
    """
    if which == "train":
        if not isinstance(datamodule, MemoryDataModule):
            raise ValueError(
                f"{type(datamodule).__name__} gives its training images augmented only; a repair needs data "
                "that fit in memory"
            )
        datamodule.augmentation = None  # type: ignore[assignment]
    loader = getattr(datamodule, f"{which}_dataloader")()
    if not loader:
        raise ValueError(f"the data has no {which} images (val_size=0 holds none out)")
    std, mean = (torch.tensor(v).view(-1, 1, 1) for v in (datamodule.std, datamodule.mean))
    wanted, start = chosen(loader.size, count, seed), 0
    pixels, labels = [], []
    for batch, label in loader:
        here = wanted[(wanted >= start) & (wanted < start + len(label))] - start
        start += len(label)
        pixels.append(batch[here] * std + mean)
        labels.append(label[here])
    # the round trip through the normalization may leave [0, 1] by a rounding error
    return Images(torch.cat(pixels).clamp_(0, 1), torch.cat(labels), tuple(datamodule.class_names))
