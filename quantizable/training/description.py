"""What a checkpoint says of its network, so that it can be built again and fed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantizable.data import DATAMODULES, DataModule
from quantizable.data.base import plain_types
from quantizable.interface.lightning_package import pl
from quantizable.network import QuantizableNetwork
from quantizable.storage.checkpoint import FORMAT, read_checkpoint
from quantizable.storage.signature import INFO_KEYS

# attributes of a data module
KEYS = (
    *("class_names", "in_chans", "image_size", "mean", "std", "evaluation"),
    *("vocabulary", "input_size", "input_ids"),
)


def describe(
    network: QuantizableNetwork, architecture: dict[str, Any], datamodule: object | None
) -> dict[str, Any]:
    """What it takes to build a network again and to feed it, in plain types.

    Args:
        network: the network that is trained.
        architecture: how ``create_model`` builds its float network: model, num_classes, model_options.
        datamodule: the data it is trained on, None where there is no data module.
    """
    data = {
        key: plain_types(getattr(datamodule, key))
        for key in KEYS
        if hasattr(datamodule, key)  # one of the user's own need not have it
    }
    names: dict[Any, str] = {kind: name for name, kind in DATAMODULES.items()}
    data |= {key: network.info[key] for key in INFO_KEYS if key in network.info}
    data["data"] = names.get(type(datamodule))  # None for a data module of the user's own
    if isinstance(datamodule, DataModule) and data["data"]:
        data["settings"] = datamodule.settings
    return {
        "format": FORMAT,
        **architecture,
        "quantize": network.config,
        "modes": [mode.name for mode in network.modes],
        "data": data,
    }


def measured_images(datamodule: DataModule, trainer: pl.Trainer, stage: str) -> int | None:
    """How many images accuracies are measured on; None where the loader does not say, or not all are used.

    Args:
        stage: ``"test"`` or ``"val"``.
    """
    test = stage == "test"
    limit = trainer.limit_test_batches if test else trainer.limit_val_batches
    loader = datamodule.test_dataloader() if test else datamodule.val_dataloader()
    whole = isinstance(limit, float) and limit == 1.0  # the integer 1 is one batch
    return getattr(loader, "size", None) if whole else None


def check_same_network(given: dict[str, Any], path: Path) -> None:
    """``ValueError`` if a run that is to be resumed trains another network than :func:`describe` gave."""
    saved = read_checkpoint(path)["quantizable"]
    # an option that is younger than the checkpoint was off
    unknown = given["quantize"].keys() - saved["quantize"].keys()
    saved["quantize"] |= {key: given["quantize"][key] for key in unknown if not given["quantize"][key]}
    for key in ("model", "num_classes", "model_options", "modes", "quantize"):
        if saved[key] != given[key]:
            raise ValueError(
                f"{path} cannot be resumed: it was trained with {key}={saved[key]}, asked for is {given[key]}"
                f"; give the line of that run again, which {path.with_name('config.yaml')} begins with"
            )
    if (known := saved["data"].get("vocabulary")) and known != given["data"].get("vocabulary"):
        raise ValueError(f"{path} cannot be resumed: the training texts have other words than before")
