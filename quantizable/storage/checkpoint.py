"""A trained network back from its checkpoint, without running any code from the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from quantizable.models.create import check_own
from quantizable.models.switchable import build_network
from quantizable.network import QuantizableNetwork
from quantizable.storage.network_file import NOT_OURS, check_checkpoint

FORMAT = 1
ENTRIES = {
    "format": int,
    "model": str | None,
    "num_classes": int | None,
    "model_options": dict,
    "quantize": dict,
    "modes": list,
    "data": dict,
}
# options of a float network that fetch or read weights from elsewhere; a file of ours holds them all
ELSEWHERE = ("pretrained", "checkpoint_path")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint written by training.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated, holds code, or is no checkpoint of this library.
    """
    path = Path(path)
    check_checkpoint(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                bare = file.read(1) == pickle.PROTO
            old = "not loaded: a pickle, the format of old files, which can hold code"
            raise ValueError(f"{path} is {old if bare else 'truncated or no checkpoint'}") from error
        raise ValueError(
            f"{path} was not loaded: it holds code or objects other than tensors and plain values. "
            "Use a checkpoint written by this library"
        ) from error
    except Exception as error:  # random bytes make the unpickler fail in any way
        raise ValueError(f"{path} is truncated or no checkpoint") from error
    about = contents.get("quantizable") if isinstance(contents, dict) else None
    if not isinstance(about, dict) or "format" not in about or "state_dict" not in contents:
        raise ValueError(NOT_OURS.format(path))
    check_description(about, path)
    return contents


def check_description(about: dict[str, Any], path: str | Path) -> None:
    """``ValueError`` if what a file says of its network is damaged, or written by a newer version."""
    damaged = [key for key, kind in ENTRIES.items() if key not in about or not isinstance(about[key], kind)]
    if "format" not in damaged and about["format"] > FORMAT:
        raise ValueError(f"{path} has format {about['format']}, newer than {FORMAT}: update quantizable")
    damaged += [key for key in ("bits", "quantizer") if not damaged and key not in about["quantize"]]
    damaged += [
        f"data.{key}" for key in ("mean", "std") if not damaged and not _are_numbers(about["data"].get(key))
    ]
    if damaged:
        raise ValueError(f"{path} is damaged: it does not say {', '.join(damaged)} of its network")


def _are_numbers(values: Any) -> bool:
    """True for a list of numbers, or nothing."""
    return values is None or (
        isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)
    )


def load_network(network: QuantizableNetwork, path: str | Path) -> None:
    """Load the weights, norms and step sizes of all modes from a checkpoint of training, in place.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_checkpoint`; or they do not fit the network.
    """
    prefix, contents = "network.", read_checkpoint(path)
    state = {k.removeprefix(prefix): v for k, v in contents["state_dict"].items() if k.startswith(prefix)}
    classes = contents["quantizable"]["num_classes"]
    fill_network(network, state, f"{path}{f', trained on {classes} classes,' if classes else ''}")


def fill_network(network: QuantizableNetwork, state: Mapping[str, Any], source: str) -> None:
    """Load a state dict, in place; ``ValueError``, which names its source, if it does not fit."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]  # of a deep network it lists hundreds of keys
        raise ValueError(f"{source} does not fit the network: {reason}") from error


def load_checkpoint(path: str | Path, model: torch.nn.Module | None = None) -> QuantizableNetwork:
    """A trained network in evaluation mode, ready for ``set_bits``; it starts in its highest mode.

    Args:
        path: a checkpoint of training (``checkpoints/<run>/best.ckpt``).
        model: the float network, needed only if training was not given a name but a module.

    Attributes of the result: ``info``, a dictionary with the class names, mean, std and image size of the
        data.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_checkpoint`; or the weights do not fit the
            architecture.
    """
    network = build_described(read_checkpoint(path)["quantizable"], path, model)
    load_network(network, path)
    return network.eval()


def build_described(
    about: dict[str, Any], path: str | Path, model: torch.nn.Module | None = None
) -> QuantizableNetwork:
    """The network that a file describes, without its weights.

    Args:
        about: what :func:`check_description` found right.
        path: the file, for messages.
        model: the float network, needed only if the description does not name it.

    Raises:
        ValueError: the description names no network, or not how to build it.
    """
    if model is None and about["model"] is None:
        raise ValueError(f"{path} was trained from a module of your own; pass it: load(path, model=...)")
    options = {key: value for key, value in about["quantize"].items() if key not in ("bits", "quantizer")}
    named = {key: value for key, value in about["model_options"].items() if key not in ELSEWHERE}
    try:
        if model is None:
            check_own(about["model"])
        network = build_network(
            model or about["model"],
            about["num_classes"],
            about["quantize"]["bits"],
            about["quantize"]["quantizer"],
            model_options=named if model is None else None,
            quantize_options=options,
        )
    except (TypeError, ValueError) as error:  # an option that neither the network nor the quantizer has
        raise ValueError(f"{path} does not say how to build its network: {error}") from error
    except RuntimeError as error:
        if "allocate" not in str(error):
            raise
        raise ValueError(
            f"{path} describes a network that needs more memory than there is: {error}"
        ) from error
    if (held := [mode.name for mode in network.modes]) != about["modes"]:
        listed = ", ".join(map(str, about["modes"]))
        raise ValueError(f"{path} is damaged: it lists modes {listed}, its network has {', '.join(held)}")
    info: Any = {**about["data"], **{key: about[key] for key in ("model", "num_classes", "model_options")}}
    network.info = info
    return network
