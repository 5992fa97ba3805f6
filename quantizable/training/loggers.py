"""The loggers of a run: the tracker that was asked for, and ``metrics.csv`` always."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from quantizable.training import trackers
from quantizable.training.metrics_file import RunCSVLogger
from quantizable.training.settings import plain

log = logging.getLogger(__name__)


def make_loggers(cfg: dict[str, Any], config: DictConfig, folder: Path, module: Any) -> list[Logger]:
    """What ``logger=`` names, with the run's configuration, and what writes ``metrics.csv``.

    Args:
        cfg: the configuration in plain types.
        config: the same as composed.
        folder: of the run.
        module: the one that is trained; names scheme and modes.
    """
    kind = config.logger._target_
    if kind.endswith("WandbLogger"):
        options = wandb_options(cfg, folder, module)
    elif kind.endswith("MLFlowLogger"):
        options = {"run_name": folder.name}
    else:
        options = {"save_dir": str(folder), "name": "", "version": ""}
    asked = instantiate(config.logger, **options)
    if trackers.is_csv(asked):
        return [asked]
    asked.log_hyperparams(cfg)
    return [asked, RunCSVLogger(folder, name="", version="")]


def wandb_options(cfg: dict[str, Any], folder: Path, module: Any) -> dict[str, Any]:
    """Where a W&B run lies, and, unless the configuration says so, what it is grouped and found by."""
    offline = not has_wandb_login() and "WANDB_MODE" not in os.environ
    if offline:
        log.info("no W&B login: logging offline; later: wandb sync %s/wandb/offline-run-*", folder)
    data = str(cfg["data"]["_target_"]).rpartition(".")[2].lower()
    bits = ",".join(mode.name for mode in module.modes)
    tags = [data, cfg["model"]["name"], cfg["quantizer"]["name"], plain(module.scheme), f"bits {bits}"]
    return {
        "save_dir": str(folder),
        "name": folder.name,
        "offline": offline,
        "group": cfg["logger"].get("group") or f"{data}_{cfg['model']['name']}",
        "tags": cfg["logger"].get("tags") or [tag[:64] for tag in tags],  # W&B takes no longer ones
    }


def has_wandb_login() -> bool:
    """True if there is a key for the W&B server in use: W&B's own, or one that its settings name."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(wandb.setup().settings.base_url).netloc
    public = {"api.wandb.ai", urlsplit(wandb.Settings().base_url).netloc}  # its name before and now
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
        return any(logins.authenticators(one) for one in (public if server in public else {server}))
    except (OSError, netrc.NetrcParseError):
        return False
