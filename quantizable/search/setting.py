"""The network, the data and the folder that the parts of ``quantizable search`` work with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizable.bits import ModeLike
from quantizable.certify.smoothing import Smoothing
from quantizable.data import ImageDataModule
from quantizable.data.base import DataModule
from quantizable.data.choice import validation_loader
from quantizable.network import QuantizableNetwork
from quantizable.storage.assignment import noisy_inputs
from quantizable.storage.load import load
from quantizable.storage.network_data import trained_data
from quantizable.storage.signature import example_inputs


class Setting:
    """The network, its data and the output folder, checked before anything long begins."""

    def __init__(self, args: argparse.Namespace, test: bool) -> None:
        self.network: QuantizableNetwork = load(args.checkpoint)
        self._words = args.data
        self.output: Path = args.output or args.checkpoint.parent / "search"
        self.test, self.count = test, args.images

    @cached_property
    def data(self) -> DataModule:
        """What the network was trained on, or what the words name."""
        return trained_data(self.network, self._words)

    def images(self) -> tuple[Tensor, Tensor]:
        """Evenly spread images ``[N, C, H, W]`` and labels ``[N]`` of the test or the validation set."""
        self.data.prepare_test_data() if self.test else self.data.prepare_data()
        self.data.setup("test" if self.test else "fit")
        loader = self.data.test_dataloader() if self.test else validation_loader(self.network, self.data)
        spread = torch.linspace(0, loader.size - 1, min(self.count, loader.size)).round().long()
        images, labels, first = [], [], 0
        for x, y in loader:
            own = spread[(spread >= first) & (spread < first + len(x))] - first
            images.append(x[own])
            labels.append(y[own])
            first += len(x)
        return torch.cat(images), torch.cat(labels)

    def example(self) -> Any:
        """One input of the data."""
        data = self.data
        if isinstance(data, ImageDataModule):
            return torch.zeros(1, data.in_chans, data.image_size, data.image_size)
        return example_inputs(self.network, 1)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the images, per channel; ``ValueError`` for words."""
        if not isinstance(self.data, ImageDataModule):
            raise ValueError("this adds noise to images or shifts them, and this network reads words")
        return tuple(self.data.mean), tuple(self.data.std)

    @property
    def std(self) -> tuple[float, ...]:
        """Of the images, per channel; ``ValueError`` for words, to which no noise is added."""
        return self.statistics[1]

    def training_inputs(self, batches: int, noise: float = 0.0) -> list[Tensor]:
        """The first training batches of the data module's seed, with Gaussian noise of that sigma."""
        if batches < 0:
            raise ValueError(f"--norm-batches is {batches}; it is 0 or more")
        inputs = islice(self.data.train_dataloader(), batches) if batches else ()
        return list(noisy_inputs(inputs, noise, self.std)) if noise else [x for x, _ in inputs]

    def fit_norms(self, batches: int, noise: float) -> None:
        """Fit the norms of all modes to training images with noise; 0 batches: leave them as they are.

        The highest mode's come first, as the others are compared with it.
        """
        if batches < 0:
            raise ValueError(f"--norm-batches is {batches}; it is 0 or more")
        if not batches:
            return
        self.data.prepare_data()
        self.data.setup("fit")
        inputs = self.training_inputs(batches, noise)
        *others, top = self.network.modes
        lower: list[ModeLike] = [*others, *self.network.assignments]
        for modes in ([top], lower):
            if modes:
                self.network.reestimate_norms(inputs, modes=modes, batches=batches)

    def smoothing(
        self, args: argparse.Namespace, first_seed: int = 0, std: Sequence[float] | None = None
    ) -> Smoothing:
        """The smoothing that the options ask for, of images divided by ``std``; None: by the data's."""
        std = self.std if std is None else tuple(std)
        return Smoothing(args.sigma, args.n, args.n0, args.alpha, std, first_seed + args.seed)
