"""A trained network back from its checkpoint, without running any code from the file."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quantizable.build import build_network
from quantizable.data import DATAMODULES
from quantizable.network import QuantizableNetwork

if TYPE_CHECKING:
    from quantizable.classifier import QuantizableClassifier

FORMAT = 1


def describe(module: QuantizableClassifier) -> dict[str, Any]:
    """What it takes to build the network of ``module`` again and to feed it, in plain types."""
    datamodule = getattr(module.trainer, "datamodule", None) if module._trainer else None
    data = {
        key: getattr(datamodule, key)
        for key in ("class_names", "in_chans", "image_size", "mean", "std")
        if datamodule
    }
    names: dict[Any, str] = {kind: name for name, kind in DATAMODULES.items()}
    data["data"] = names.get(type(datamodule))  # None for a data module of the user's own
    return {
        "format": FORMAT,
        **module.architecture,
        "quantize": module.network.config,
        "modes": [mode.name for mode in module.modes],
        "data": {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()},
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint written by training.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated, holds code, or is no checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; training writes checkpoints/<run>/best.ckpt")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is truncated or no checkpoint") from error
        raise ValueError(
            f"{path} was not loaded: it holds code or objects other than tensors and plain values. "
            "Use a checkpoint written by this library"
        ) from error
    except Exception as error:  # random bytes make the unpickler fail in any way
        raise ValueError(f"{path} is truncated or no checkpoint") from error
    about = contents.get("quantizable") if isinstance(contents, dict) else None
    if not isinstance(about, dict) or "format" not in about or "state_dict" not in contents:
        raise ValueError(
            f"{path} is no checkpoint of a quantizable network; float weights load with load_float_weights"
        )
    if about["format"] > FORMAT:
        raise ValueError(f"{path} has format {about['format']}, newer than {FORMAT}: update quantizable")
    return contents


def check_same_network(module: QuantizableClassifier, path: Path) -> None:
    """``ValueError`` if a run that is to be resumed trains another network than ``module``."""
    saved, given = read_checkpoint(path)["quantizable"], describe(module)
    for key in ("model", "num_classes", "model_options", "modes", "quantize"):
        if saved[key] != given[key]:
            raise ValueError(
                f"{path} cannot be resumed: it was trained with {key}={saved[key]}, asked for is {given[key]}"
            )


def load_network(network: QuantizableNetwork, path: str | Path) -> None:
    """Load the weights, norms and step sizes of all modes from a checkpoint of training, in place.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_checkpoint`; or they do not fit the network.
    """
    prefix, contents = "network.", read_checkpoint(path)
    state = {k.removeprefix(prefix): v for k, v in contents["state_dict"].items() if k.startswith(prefix)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]  # of a deep network it lists hundreds of keys
        raise ValueError(f"{path} does not fit the network: {reason}") from error


def load(path: str | Path, model: torch.nn.Module | None = None) -> QuantizableNetwork:
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
    contents = read_checkpoint(path)
    about = contents["quantizable"]
    if model is None and about["model"] is None:
        raise ValueError(f"{path} was trained from a module of your own; pass it: load(path, model=...)")
    options = {key: value for key, value in about["quantize"].items() if key not in ("bits", "quantizer")}
    network = build_network(
        model or about["model"],
        about["num_classes"],
        about["quantize"]["bits"],
        about["quantize"]["quantizer"],
        model_options={**about["model_options"], "pretrained": False} if model is None else None,
        quantize_options=options,
    )
    load_network(network, path)
    info: Any = {**about["data"], **{key: about[key] for key in ("model", "num_classes", "model_options")}}
    network.info = info
    return network.eval()
