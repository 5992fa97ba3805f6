"""The network of a checkpoint, perhaps with an assignment as one more mode, to be trained further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from quantizable.data import DataModule, ImageDataModule
from quantizable.data.choice import check_fit
from quantizable.interface.choices import NETWORK_SETTINGS
from quantizable.network import QuantizableNetwork
from quantizable.storage.assignment import read_assignment
from quantizable.storage.checkpoint import load_checkpoint
from quantizable.storage.network_file import assignment_name
from quantizable.storage.selection import FILES


def network_to_finetune(
    cfg: dict[str, Any], datamodule: DataModule, resumes: bool
) -> QuantizableNetwork | None:
    """The network that ``finetune=`` asks for, in training mode; None without.

    Args:
        cfg: ``start`` is the checkpoint, ``finetune`` an assignment file or modes that are held already.
        datamodule: set up to fit; the norms of the assignment are fitted to its training batches.
        resumes: the run goes on from a checkpoint of its own, which brings the norms.

    Raises:
        ValueError, FileNotFoundError: no checkpoint, or the assignment is not one of its network.
    """
    if cfg["finetune"] is None:
        return None
    network = load_checkpoint(cfg["start"])
    check_fit(network, datamodule)
    given = {"model.name": cfg["model"]["name"], "bits.modes": [str(mode) for mode in cfg["bits"]["modes"]]}
    held = {"model.name": network.info["model"], "bits.modes": network.config["bits"]}
    given["quantizer"], held["quantizer"] = cfg["quantizer"]["name"], network.config["quantizer"]
    for key, group in NETWORK_SETTINGS.items():
        # nothing is [], {} or null, and an older checkpoint does not know every option
        given[f"{group}.{key}"] = cfg[group][key] or None
        held[f"{group}.{key}"] = network.config.get(key) or None
    for key, value in (cfg["model"]["options"] or {}).items():
        given[f"model.options.{key}"] = value
        held[f"model.options.{key}"] = network.info["model_options"].get(key)
    for key, own in held.items():
        if own != given[key]:
            raise ValueError(
                f"{cfg['start']} has {key}={own}, asked for is {given[key]}; quantizable finetune reads them "
                "from the checkpoint"
            )
    path = Path(cfg["finetune"])
    if path.suffix in FILES:
        saved = read_assignment(path, network)
        if resumes:
            saved = replace(saved, norm_batches=0)
        std = datamodule.std if isinstance(datamodule, ImageDataModule) else (1.0,)
        saved.hold(network, assignment_name(path), datamodule.train_dataloader(), std)
    return network.train()
