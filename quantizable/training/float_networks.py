"""The float networks of a run: how they are built for its data, and the one that teaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from quantizable.data import DataModule, ImageDataModule
from quantizable.data.base import plain_types
from quantizable.models.create import create_model
from quantizable.models.weights import load_float_weights
from quantizable.storage.checkpoint import load_checkpoint


def float_options(cfg: dict[str, Any], datamodule: DataModule) -> dict[str, Any]:
    """How the networks are built for the data, the trained one and its teacher."""
    options = datamodule.model_options
    if isinstance(datamodule, ImageDataModule):
        asked: bool | str = cfg["model"]["cifar_stem"]
        options["cifar_stem"] = datamodule.image_size <= 64 if asked == "auto" else bool(asked)
    return options


def make_teacher(cfg: dict[str, Any], datamodule: DataModule) -> nn.Module | None:
    """The network that teaches: a float one with its weights, a run's in its highest mode, or None.

    Raises:
        FileNotFoundError, ValueError: no such file, or its weights are of another network or, of a run,
            for other classes or for images normalized otherwise.
    """
    name = cfg["train"]["teacher"]
    if name is None:
        return None
    if name.endswith(".ckpt"):
        return from_a_run(name, datamodule)
    with torch.random.fork_rng():  # the network starts as it would without
        teacher = create_model(name, datamodule.num_classes, **float_options(cfg, datamodule))
    load_float_weights(teacher, cfg["train"]["teacher_weights"])
    return teacher


def from_a_run(path: str, datamodule: DataModule) -> nn.Module:
    """The network of a checkpoint, if it was trained on such data; ``ValueError`` as of the above."""
    with torch.random.fork_rng():
        teacher = load_checkpoint(path)
    for key in ("class_names", "in_chans", "mean", "std", "vocabulary"):
        taught, wanted = teacher.info.get(key), plain_types(getattr(datamodule, key, None))
        if None not in (taught, wanted) and taught != wanted:
            raise ValueError(
                f"{path} cannot teach here: its {key}: {str(taught)[:80]}, that of the data: "
                f"{str(wanted)[:80]}; give a network trained on such inputs and classes"
            )
    return teacher
