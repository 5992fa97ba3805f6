"""What an image needs before a network can see it, and the names of what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from quantizable.data.files import check_depth
from quantizable.network import QuantizableNetwork

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def preprocessing(network: QuantizableNetwork) -> dict[str, Any]:
    """``in_chans``, ``image_size``, ``mean``, ``std``, ``class_names``: of the data, else of timm."""
    config = getattr(network.model, "pretrained_cfg", None) or {}
    found: dict[str, Any] = {}
    if config.get("input_size"):
        channels, size = config["input_size"][:2]
        found = {"in_chans": channels, "image_size": size}
        found |= {key: config[key] for key in ("mean", "std", "crop_pct", "interpolation") if config.get(key)}
    info = dict(network.info)
    info.pop("settings", None)  # of training, with its folders: no business of whom the file is shipped to
    return found | info


def input_size_of(network: QuantizableNetwork) -> tuple[int, int, int]:
    """Channels, height and width of the network's images; ``ValueError`` if nothing says them."""
    info = preprocessing(network)
    if "image_size" not in info:
        raise ValueError(
            "the size of the network's images is not known; give input_size=(channels, height, width)"
        )
    return info["in_chans"], info["image_size"], info["image_size"]


def read_images(paths: list[Path], info: dict[str, Any]) -> Tensor:
    """Images as the network was trained on them, float32 ``[N, C, H, W]``.

    Resized and cropped to ``image_size`` by timm's evaluation transform, scaled to [0, 1], normalized by
    ``mean`` and ``std``.

    Raises:
        ValueError: a file is no image, or one of more than 8 bits a channel; or the model file does not say
            what size it takes.
    """
    if "image_size" not in info:
        raise ValueError("the model file does not say what images it takes; export it with its preprocessing")
    channels, size = info["in_chans"], info["image_size"]
    mean, std = info.get("mean") or (0.0,) * channels, info.get("std") or (1.0,) * channels
    transform = create_transform(
        (channels, size, size), mean=tuple(mean), std=tuple(std), crop_pct=info.get("crop_pct", 1.0),
        interpolation=info.get("interpolation", "bilinear"),
    )  # fmt: skip
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
