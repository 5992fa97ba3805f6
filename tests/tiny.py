"""Networks and trainers that are small enough to be trained in a test."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from timm.models import register_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

REPOSITORY = Path(__file__).parents[1]
CONF = REPOSITORY / "conf"
SHARED = Path(os.environ.get("QUANTIZABLE_SHARED", REPOSITORY.parent / "shared"))  # real data, where it is
TINY = (
    "data=fake",
    "data.image_size=8",
    "data.size=64",
    "data.batch_size=8",
    "model=timm",
    "model.name=tiny_cnn",
    "model.cifar_stem=false",
    "bits.modes=[2,8,32]",
    "trainer=cpu",
    "trainer.precision=32-true",
    "schedule.epochs=2",
)


class TinyCNN(nn.Module):
    """Three convolutions and a classifier, images of any size, logits ``[B, num_classes]``."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.body(self.stem(x)).mean((2, 3))))


@register_model
def tiny_cnn(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, **kwargs: Any) -> TinyCNN:
    """The same by name, as the configuration wants it."""
    return TinyCNN(num_classes, in_chans, kwargs.get("drop_rate", 0.0))


def config(output: Path, *overrides: str, small: bool = True) -> DictConfig:
    """What ``python train.py OVERRIDES`` composes, with a tiny network on fake data unless told otherwise."""
    words = [*(TINY if small else ()), f"output={output}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=words)


def trainer(**options: Any) -> pl.Trainer:
    """A plain trainer that keeps and shows nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, **{**quiet, **options})


def batches(count: int = 4, size: int = 8, classes: int = 10) -> list[tuple[Tensor, Tensor]]:
    """Labeled random images ``[size, 3, 8, 8]``."""
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 8, 8, generator=draw), torch.randint(classes, (size,), generator=draw))
        for _ in range(count)
    ]


def loader(count: int = 4, size: int = 8) -> DataLoader:
    """The same images in the same order from torch's own loader."""
    images, labels = zip(*batches(count, size), strict=True)
    return DataLoader(TensorDataset(torch.cat(images), torch.cat(labels)), batch_size=size)


def same(first: dict[str, Any], second: dict[str, Any], keys: Sequence[str] = ()) -> bool:
    """True if two state dicts hold bit for bit the same tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in keys or first)
