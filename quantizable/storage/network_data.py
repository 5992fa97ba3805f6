"""The data that a network of a file is asked about, prepared as the network was trained to see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantizable.data import DataModule, ImageDataModule
from quantizable.data.choice import check_fit, make_datamodule
from quantizable.data.evaluation_transform import KEY, resize_and_crop
from quantizable.data.folder import Folder
from quantizable.data.scene import Scene
from quantizable.network import QuantizableNetwork
from quantizable.storage.preprocessing import preprocessing


def trained_data(network: QuantizableNetwork, words: Sequence[str] = ()) -> DataModule:
    """The data module that the words ask for (see :func:`make_datamodule`), if it fits the network.

    Images of other data than those of training are normalized as the network was trained, and those of
    folders resized and cropped so, too, as ``quantizable predict`` does.

    Args:
        network: as :func:`quantizable.load` gives it.
        words: ``data=NAME data.KEY=VALUE``; by default the data of training.

    Raises:
        ValueError: as :func:`make_datamodule` and :func:`check_fit`.
    """
    datamodule = make_datamodule(words, network.info)
    check_fit(network, datamodule)
    if isinstance(datamodule, ImageDataModule) and not isinstance(datamodule, Scene):
        _prepare(datamodule, network, {word.partition("=")[0] for word in words})
    return datamodule


def _prepare(datamodule: ImageDataModule, network: QuantizableNetwork, given: set[str]) -> None:
    """Set what the network says and the words of the command line do not."""
    # timm's description of its networks is for photographs of their size
    said: dict[str, Any] = preprocessing(network) if isinstance(datamodule, Folder) else network.info
    for key in ("mean", "std"):
        if len(values := tuple(said.get(key) or ())) == datamodule.in_chans:
            setattr(datamodule, key, values)
    size = said.get("image_size")
    if isinstance(datamodule, Folder) and size and not given & {"data.image_size", "data.crop_fraction"}:
        cut = resize_and_crop(size, said.get("crop_pct", 0.875), said.get("interpolation", "bicubic"))
        datamodule.image_size, datamodule.evaluation = size, said.get(KEY) or cut
