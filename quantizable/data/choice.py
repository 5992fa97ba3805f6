"""The data module that a command line asks for."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from quantizable.data.base import DataModule
from quantizable.data.digits import Digits
from quantizable.data.fake import Fake
from quantizable.data.folder import Folder, ImageNet
from quantizable.data.loader import EpochLoader
from quantizable.data.published import CIFAR10, CIFAR100, MNIST, SVHN
from quantizable.data.scene import Scene
from quantizable.data.text import Text
from quantizable.interface.choices import DATA
from quantizable.interface.errors import unknown
from quantizable.network import QuantizableNetwork

KINDS = (CIFAR10, CIFAR100, SVHN, MNIST, Digits, Fake, Folder, ImageNet, Scene, Text)
DATAMODULES: dict[str, type[DataModule]] = {
    name: next(kind for kind in KINDS if kind.__name__ == wanted) for name, wanted in DATA.items()
}


def make_datamodule(words: Sequence[str], trained: Mapping[str, Any]) -> DataModule:
    """The data module that ``data=NAME data.KEY=VALUE ...`` asks for, else that of training.

    Args:
        words: from the command line.
        trained: ``network.info``, for the name and, of the same data, all settings that are not given;
            for other data the sizes.

    Raises:
        ValueError: a word of another form, an unknown name or key, more than one name.
    """
    for word in words:
        if "=" not in word or not (word.startswith(("data=", "data."))):
            raise ValueError(
                f"{word!r} is not understood; write data=NAME and data.KEY=VALUE, as for train.py"
            )
    names = [word.removeprefix("data=") for word in words if word.startswith("data=")]
    if len(names) > 1:
        raise ValueError(f"data= is given more than once ({', '.join(names)}); give one data set")
    name = names[0] if names else trained.get("data")
    if name not in DATAMODULES:
        raise ValueError(unknown("data set", name, DATAMODULES))
    kind = DATAMODULES[name]
    takes = inspect.signature(kind).parameters
    known: Any = {k: trained[k] for k in ("image_size", "in_chans", "num_classes") if trained.get(k)}
    if name == trained.get("data"):
        if trained.get("vocabulary"):  # other texts are read with the words that the network knows
            known |= {key: trained[key] for key in ("vocabulary", "class_names")}
            known["max_length"] = trained["input_size"][0]
        known |= trained.get("settings") or {}  # with these the same images are held out
        if trained.get("class_names") and "class_names" in takes:
            known["class_names"] = trained["class_names"]
    asked = OmegaConf.from_dotlist([w.removeprefix("data.") for w in words if w.startswith("data.")])
    options: Any = {key: value for key, value in known.items() if key in takes} | dict(asked)
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"data set {name!r}: {error}") from error


def check_fit(network: QuantizableNetwork, datamodule: DataModule) -> None:
    """``ValueError`` if the data has other classes or channels than the network was trained for.

    Or if it is of words for a network that reads images, or the reverse. Folders of images get the labels by
    which the network knows the names of their classes; see :func:`match_classes`.
    """
    reads, gives = (
        "words" if is_text else "images"
        for is_text in (bool(network.info.get("vocabulary")), isinstance(datamodule, Text))
    )
    if reads != gives:
        raise ValueError(
            f"the network reads {reads}, {type(datamodule).__name__} gives {gives}; choose the data it was "
            "trained on, or one like it"
        )
    for what in ("num_classes", "in_chans"):
        trained, given = network.info.get(what), getattr(datamodule, what, None)
        if trained is not None and trained != given:
            raise ValueError(
                f"the network was trained with {what}={trained}, {type(datamodule).__name__} has {given}; "
                "choose the data it was trained on, or one like it"
            )
    match_classes(network, datamodule)


def match_classes(network: QuantizableNetwork, datamodule: DataModule) -> None:
    """Give the folders of images the labels by which the network was trained to know their names.

    Where the names are others, classes are matched by position, and a warning says so.

    Raises:
        ValueError: other data have the same names in another order.
    """
    trained, own = tuple(network.info.get("class_names") or ()), tuple(datamodule.class_names)
    if not trained or own == trained or isinstance(datamodule, Fake):
        return
    if {*own} != {*trained}:
        warnings.warn(
            f"the network was trained on the classes {', '.join(trained)[:80]}, "
            f"{type(datamodule).__name__} has {', '.join(own)[:80]}; they are matched by their positions",
            stacklevel=3,
        )
    elif isinstance(datamodule, Folder):
        datamodule.class_names = trained
    else:
        raise ValueError(
            f"the network was trained on the same classes in another order, {', '.join(trained)[:80]}; "
            f"{type(datamodule).__name__} has {', '.join(own)[:80]}"
        )


def validation_loader(network: QuantizableNetwork, datamodule: DataModule) -> EpochLoader:
    """The images that ``datamodule``, set up to fit, holds out of training.

    Warns if the network's checkpoint, an older one or one of a data module of the user's own, does not
    say which images those were: the network may have been trained on some of these.

    Raises:
        ValueError: none are held out, or others than in training.
    """
    loader = datamodule.val_dataloader()
    if isinstance(loader, list):
        raise ValueError("the data has no validation images; give data.val_size above 0")
    name = network.info.get("data")
    held = network.info.get("settings") or {}
    for key in ("val_size", "split_seed") if isinstance(datamodule, DATAMODULES.get(str(name), ())) else ():
        if key in held and getattr(datamodule, key) != held[key]:
            raise ValueError(
                f"data.{key}={getattr(datamodule, key)} holds other images out than training did, with "
                f"{key}={held[key]}; the network was trained on some of them: leave data.{key} out"
            )
    if "settings" not in network.info and (name is None or isinstance(datamodule, DATAMODULES[name])):
        warnings.warn(
            "the checkpoint does not say which images were held out of its training; those of "
            f"data.val_size={datamodule.val_size} data.split_seed={datamodule.split_seed} are taken, and the "
            "network may have been trained on some of them",
            stacklevel=3,
        )
    return loader
