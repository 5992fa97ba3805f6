"""An input of the shape that a module is trained on, by which Lightning's ``ModelSummary`` counts FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from quantizable.interface.lightning_package import pl


def example_input(module: Any) -> Tensor | None:
    """Zeros ``[1, ...]``, shaped as the training data or as the network says; None where neither is known.

    They are ids, integers, where the data are.

    Args:
        module: a :class:`quantizable.MultiModeModule`, in a trainer or not.
    """
    shape = _shape_of_data(module)
    if shape is None and (one := _input_of_a_loader(module)) is not None:
        # of bytes the network gets what the user's hooks make of them
        dtype = None if one.dtype == torch.uint8 or one.is_floating_point() else one.dtype
        return torch.zeros(1, *one.shape[1:], dtype=dtype, device=module.device)
    shape = shape or _shape_of_network(module)
    if shape is None:
        return None
    return torch.zeros(1, *shape, dtype=torch.int64 if _reads_ids(module) else None, device=module.device)


def _reads_ids(module: Any) -> bool:
    data = None if module._trainer is None else module.trainer.datamodule
    return bool(getattr(data, "input_ids", None) or getattr(module.network, "info", {}).get("input_ids"))


def _shape_of_data(module: Any) -> tuple[int, ...] | None:
    if module._trainer is None:
        return None
    data = module.trainer.datamodule
    channels, size = getattr(data, "in_chans", None), getattr(data, "image_size", None)
    if isinstance(channels, int) and isinstance(size, int):
        return channels, size, size
    given = getattr(data, "input_size", None)
    return given if isinstance(given, tuple) else None


def _input_of_a_loader(module: Any) -> Tensor | None:
    """A batch of one input, of a ``DataLoader`` of the user's own."""
    if module._trainer is None or module.trainer.state.fn != pl.trainer.states.TrainerFn.FITTING:
        return None
    source = module.trainer.fit_loop._data_source
    loader = source.dataloader() if source.is_defined() else None
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    with (
        pl.utilities.seed.isolate_rng()
    ):  # an image may be augmented, and the run must draw as without this one
        batch = loader.collate_fn([loader.dataset[0]])
    given = module.inputs(module._on_before_batch_transfer(batch))
    return given if isinstance(given, Tensor) else None


def _shape_of_network(module: Any) -> tuple[int, ...] | None:
    network, options = module.network, module.architecture["model_options"]
    about = getattr(network, "info", {})
    if "input_size" in about:
        return tuple(about["input_size"])
    if "image_size" in about and "in_chans" in about:
        return about["in_chans"], about["image_size"], about["image_size"]
    says = getattr(network.model, "pretrained_cfg", None) or getattr(network.model, "default_cfg", None) or {}
    size = says.get("input_size")
    if size is None or options.get("cifar_stem") or "img_size" in options:  # made for other images
        return None
    return options.get("in_chans", size[0]), *size[1:]
