"""What an image or a text needs before a network can read it, and the names of what it tells apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from quantizable.data.evaluation_transform import KEY, evaluation_transform, resize_and_crop, resized_bytes
from quantizable.data.files import check_depth
from quantizable.data.words import encode, padded
from quantizable.interface.choices import DATA
from quantizable.network import QuantizableNetwork

BYTES_KEY = "image_bytes"  # of an exported file: true if it takes uint8 images, and normalizes them itself
TIMM_KEYS = ("crop_pct", "crop_mode", "interpolation")  # of the evaluation transform of timm's networks


def preprocessing(network: QuantizableNetwork) -> dict[str, Any]:
    """Sizes, ``mean``, ``std``, ``class_names``, ``evaluation``, ``vocabulary``: of the data, else of timm.

    ``evaluation`` is how the data module resizes and crops. Where no data are known, timm's ``crop_pct``,
    ``crop_mode`` and ``interpolation`` stand for it.
    """
    config = getattr(network.model, "pretrained_cfg", None) or {}
    found: dict[str, Any] = {}
    if config.get("input_size"):
        channels, size = config["input_size"][:2]
        first = dict(network.model.named_modules()).get(str(config.get("first_conv")))
        found = {"in_chans": getattr(first, "in_channels", channels), "image_size": size}
        found |= {key: config[key] for key in ("mean", "std", *TIMM_KEYS) if config.get(key)}
        if found["in_chans"] != channels:  # made with in_chans=, which timm's description does not follow
            found = {key: value for key, value in found.items() if key not in ("mean", "std")}
    found |= dict(network.info)
    if steps := evaluation_of(found):
        found = {key: value for key, value in found.items() if key not in TIMM_KEYS} | {KEY: steps}
    found.pop("settings", None)  # of training, with its folders: no business of whom the file is shipped to
    return found


def evaluation_of(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the data of training are resized and cropped; older files do not say it, but name the data.

    Args:
        info: as a checkpoint or an exported file holds it.

    None: the data are not known.
    """
    if info.get(KEY):
        return dict(info[KEY])
    name, size = info.get("data"), info.get("image_size")
    if name not in DATA or not size:
        return None
    if name in ("folder", "imagenet"):
        return resize_and_crop(size, (info.get("settings") or {}).get("crop_fraction", 0.875), "bicubic")
    return resize_and_crop(size)


def input_size_of(network: QuantizableNetwork) -> tuple[int, ...]:
    """Shape of one input: ``info["input_size"]``, or channels, height and width of the network's images.

    Raises:
        ValueError: nothing says it.
    """
    info = preprocessing(network)
    if info.get("input_size"):
        return tuple(info["input_size"])
    if "image_size" not in info:
        raise ValueError(
            "the size of the network's inputs is not known; give input_size=(channels, height, width), or "
            "say it by network.info |= quantizable.deploy.describe_inputs(network, batch)"
        )
    return info["in_chans"], info["image_size"], info["image_size"]


def normalized_bytes(images: np.ndarray, network: QuantizableNetwork) -> np.ndarray:
    """Images uint8 ``[N, C, H, W]`` as the network reads them, float32: ``(x / 255 - mean) / std``."""
    info = preprocessing(network)
    mean, std = (np.asarray(info[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def read_images(paths: list[Path], info: dict[str, Any]) -> Tensor:
    """Images as the network was evaluated on them, float32 ``[N, C, H, W]``.

    For a file that normalizes by itself (``export --preprocess in-graph``): uint8, resized and cropped.

    Resized and cropped as the data module of training does it outside of training (by timm's evaluation
    transform where no data are known), scaled to [0, 1], normalized by ``mean`` and ``std``.

    Args:
        paths: of the images.
        info: what :func:`preprocessing` gave for the network.

    Raises:
        ValueError: a file is no image, or one of more than 8 bits a channel; or the model file does not say
            what size it takes.
    """
    if info.get("vocabulary"):
        raise ValueError(f"the network reads texts, and no image such as {paths[0]}")
    if "image_size" not in info:
        raise ValueError("the model file does not say what images it takes; export it with its preprocessing")
    channels = info["in_chans"]
    transform = _transform(info)
    kind = {1: "L", 3: "RGB"}.get(channels)
    if kind is None:
        raise ValueError(
            f"the network takes {channels} channels; image files have 1 or 3: pass arrays to Session"
        )
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                held = image.mode
                images.append(transform(image.convert(kind)))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no image {path}") from error
        except Exception as error:  # Pillow's readers answer damaged bytes with errors of many kinds
            raise ValueError(f"{path} is no image that can be read ({error})") from error
        check_depth(path, held)
    return torch.stack(images)


def read_texts(texts: Sequence[str], info: Mapping[str, Any]) -> Tensor:
    """Texts as the network was evaluated on them: ids of their words, int64 ``[N, L]``, padded by 0.

    Args:
        texts: as they are written.
        info: what :func:`preprocessing` gave for the network.

    Raises:
        ValueError: a text without words; or the model file does not say which words it knows.
        TypeError: no list of strings.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts is {texts!r:.80}; give a list of strings, as [text]")
    if not info.get("vocabulary"):
        raise ValueError("the model file does not say which words it knows: it reads no texts")
    (length,) = info["input_size"]
    return padded(encode(texts, info["vocabulary"], length), length)


def _transform(info: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    channels, size = info["in_chans"], info["image_size"]
    mean, std = info.get("mean") or (0.0,) * channels, info.get("std") or (1.0,) * channels
    as_bytes = bool(info.get(BYTES_KEY))
    if steps := evaluation_of(info):
        if as_bytes:
            return resized_bytes(steps)
        return evaluation_transform(steps, mean, std)
    return create_transform(
        (channels, size, size), mean=tuple(mean), std=tuple(std), crop_pct=info.get("crop_pct", 1.0),
        crop_mode=info.get("crop_mode"), interpolation=info.get("interpolation", "bilinear"),
        normalize=not as_bytes,
    )  # fmt: skip
