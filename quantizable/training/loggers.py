"""The loggers of a run: the tracker that was asked for, and ``metrics.csv`` always."""

from __future__ import annotations

import logging
import netrc
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from quantizable.report.files import write_text
from quantizable.training import trackers
from quantizable.training.metrics_file import RunCSVLogger
from quantizable.training.run_folder import is_first_process
from quantizable.training.settings import plain

log = logging.getLogger(__name__)
LOGGED = re.compile(r"(offline-)?run-(?P<when>\d{8}_\d{6})-(?P<id>.+)")  # W&B's folder for each start
MLFLOW_RUN = "mlflow_run_id"  # file in the folder of a run


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
        options = {"run_name": folder.name, "run_id": mlflow_run(folder)}
    else:
        options = {"save_dir": str(folder), "name": "", "version": ""}
    asked = instantiate(config.logger, **options)
    if trackers.is_csv(asked):
        return [asked]
    if options.get("run_id") is None:
        asked.log_hyperparams(cfg)
        if trackers.is_a(asked, "MLFlowLogger") and is_first_process():
            write_text(folder / MLFLOW_RUN, str(asked.run_id))
    else:  # its settings are there, and MLflow refuses another value, as of `resume`
        check_mlflow_run(asked, folder)
    return [asked, RunCSVLogger(folder, name="", version="")]


def wandb_options(cfg: dict[str, Any], folder: Path, module: Any) -> dict[str, Any]:
    """Where a W&B run lies, and, unless the configuration says so, what it is grouped and found by."""
    offline = not has_wandb_login() and "WANDB_MODE" not in os.environ
    if offline:
        log.info("no W&B login: logging offline; later: wandb sync %s/wandb/offline-run-*", folder)
    data = str(cfg["data"]["_target_"]).rpartition(".")[2].lower()
    bits = ",".join(module.names)
    tags = [data, cfg["model"]["name"], cfg["quantizer"]["name"], plain(module.scheme), f"bits {bits}"]
    begun = wandb_run(folder)
    if begun is not None:
        log.info("goes on with W&B's run %s", begun)
    return {
        "save_dir": str(folder),
        "name": folder.name,
        **({} if begun is None else {"id": begun}),  # Lightning allows it to be resumed
        "offline": offline,
        "group": cfg["logger"].get("group") or f"{data}_{cfg['model']['name']}",
        "tags": cfg["logger"].get("tags") or [tag[:64] for tag in tags],  # W&B takes no longer ones
    }


def wandb_run(folder: Path) -> str | None:
    """The W&B id of the run that was begun in a folder, as its latest log is named; None: none was."""
    found = [LOGGED.fullmatch(path.name) for path in (folder / "wandb").glob("*run-*")]
    latest = max(filter(None, found), key=lambda match: match["when"], default=None)
    return None if latest is None else latest["id"]


def mlflow_run(folder: Path) -> str | None:
    """The MLflow id of the run that was begun in a folder; None: none was."""
    file = folder / MLFLOW_RUN
    return file.read_text().strip() if file.is_file() else None


def check_mlflow_run(logger: Any, folder: Path) -> None:
    """``ValueError`` if MLflow does not hold the run that was begun in a folder."""
    begun = mlflow_run(folder)
    try:
        held = logger.run_id
    except Exception as error:  # of MLflow's own kinds
        raise ValueError(
            f"MLflow has no run {begun}, as {folder} was begun: look at MLFLOW_TRACKING_URI, or remove "
            f"{folder / MLFLOW_RUN} to begin another"
        ) from error
    log.info("goes on with MLflow's run %s", held)


def has_wandb_login() -> bool:
    """True if there is a key for the W&B server in use: W&B's own, or one that its settings name."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    settings = wandb.Settings(quiet=True)
    public = {"api.wandb.ai", urlsplit(settings.base_url).netloc}  # its name before and now
    # not wandb.setup(): it reads the environment once, and Lightning sets WANDB_MODE later
    if hasattr(settings, "update_from_system_settings"):  # not in older versions
        settings.update_from_system_settings()
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.base_url).netloc
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
        return any(logins.authenticators(one) for one in (public if server in public else {server}))
    except (OSError, netrc.NetrcParseError):
        return False
