"""The main job: from a composed configuration to a trained network, its table and its picture."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import WandbLogger

import quantizable
from quantizable.bits import parse_modes
from quantizable.callbacks import WandbModes
from quantizable.checkpoint import read_checkpoint
from quantizable.data import ImageDataModule
from quantizable.classifier import QuantizableClassifier
from quantizable.precision import fastest_execution
from quantizable.results import by_mode, plot_modes, print_table, write_json

log = logging.getLogger(__name__)
RUN_DIR = "QUANTIZABLE_RUN_DIR"  # how the processes of a distributed run agree on one folder


def train(config: DictConfig) -> dict[str, Any]:
    """Train as ``conf/train.yaml`` says, test the best checkpoint once, leave table and picture.

    Returns:
        what ``results.json`` holds: per mode the test metrics, the run's folder, seconds, versions.

    Raises:
        ValueError, OSError: a setting that cannot work, before any training.
    """
    cfg = OmegaConf.to_container(config, resolve=True)
    assert isinstance(cfg, dict)
    parse_modes(cfg["bits"]["modes"])
    pl.seed_everything(cfg["seed"], workers=True, verbose=False)
    datamodule: ImageDataModule = instantiate(config.data)
    datamodule.prepare_data()  # a missing data set is found before a network is built
    module = make_module(cfg, instantiate(config.scheme), datamodule)
    folder, resume = run_folder(cfg)
    write_config(config, folder)
    trainer = make_trainer(cfg, config, folder, module)
    started = time.time()
    trainer.fit(module, datamodule, ckpt_path=resume, weights_only=True)
    seconds = time.time() - started
    return finish(cfg, trainer, module, datamodule, folder, seconds)


def make_module(cfg: dict[str, Any], scheme: Any, datamodule: ImageDataModule) -> QuantizableClassifier:
    """The network in its Lightning module."""
    model, bits = cfg["model"], cfg["bits"]
    stem = model["cifar_stem"]
    if stem == "auto":
        stem = datamodule.image_size <= 64
    return QuantizableClassifier(
        model["name"],
        datamodule.num_classes,
        bits["modes"],
        cfg["quantizer"]["name"],
        scheme,
        weights=model["weights"],
        reset_head=model["reset_head"],
        model_options={
            "in_chans": datamodule.in_chans,
            "pretrained": model["pretrained"],
            "cifar_stem": stem,
            **model["options"],
        },
        quantize_options={
            "first_last": bits["first_last"],
            "norms": bits["norms"],
            "exclude": bits["exclude"],
            "overrides": bits["overrides"],
            "per_channel": cfg["quantizer"]["per_channel"],
            "attention": cfg["quantizer"]["attention"],
        },
        optimizer=cfg["schedule"]["optimizer"],
        label_smoothing=cfg["train"]["label_smoothing"],
        accumulate=cfg["train"]["accumulate"],
        clip_norm=cfg["train"]["clip_norm"],
        noise_sigma=cfg["train"]["noise_sigma"],
        seed=cfg["seed"],
    )


def run_folder(cfg: dict[str, Any]) -> tuple[Path, Path | None]:
    """The run's folder, made here, and the checkpoint to resume from, if any."""
    if RUN_DIR in os.environ:
        folder = Path(os.environ[RUN_DIR])
        return folder, _resume_from(cfg["resume"], folder)
    data = str(cfg["data"]["_target_"]).rpartition(".")[2].lower()
    name = cfg["run"] or f"{data}_{cfg['model']['name'].replace(':', '_').replace('/', '_')}"
    folder = Path(cfg["output"]) / name
    resume = _resume_from(cfg["resume"], folder)
    if resume is None:
        folder = _free(folder)
    elif cfg["resume"] != "last":
        folder = resume.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".part").touch()
        (folder / ".part").unlink()
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror}); choose another folder with output=..."
        ) from error
    os.environ[RUN_DIR] = str(folder)
    return folder, resume


def _free(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that holds no run: nothing is overwritten."""
    number, free = 1, folder
    while free.exists() and any(free.iterdir()):
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def _resume_from(resume: str | None, folder: Path) -> Path | None:
    if resume is None:
        return None
    path = folder / "last.ckpt" if resume == "last" else Path(resume)
    read_checkpoint(path)
    return path


def write_config(config: DictConfig, folder: Path) -> None:
    """The resolved configuration and the command, next to what they produced."""
    header = f"# {' '.join(sys.argv)}\n# quantizable {quantizable.__version__}, torch {torch.__version__}, {_commit()}\n"
    part = folder / "config.yaml.part"
    part.write_text(header + OmegaConf.to_yaml(config, resolve=True))
    os.replace(part, folder / "config.yaml")


def _commit() -> str:
    git = shutil.which("git")
    here = Path(__file__).parent
    done = (
        subprocess.run([git, "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        if git
        else None
    )
    return f"commit {done.stdout.strip()}" if done and done.returncode == 0 else "no commit"


def make_trainer(
    cfg: dict[str, Any], config: DictConfig, folder: Path, module: QuantizableClassifier
) -> pl.Trainer:
    """Lightning's Trainer: it keeps checkpoints, averages, resumes, distributes and shows progress."""
    options = dict(cfg["trainer"])
    execution = fastest_execution(options["accelerator"])
    channels_last, compiled = options.pop("channels_last"), options.pop("compile")
    if options["precision"] == "auto":
        options["precision"] = execution.precision
        log.info("%s", execution.reason)
    if channels_last:
        module.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        log.info("compiling: the first step takes about a minute, more for deep networks")
        module.network.model.compile()
    if options["deterministic"]:
        options["deterministic"] = "warn"
    logger = instantiate(config.logger, **_logger_folder(config.logger, folder))
    if isinstance(logger, WandbLogger):
        logger.experiment.config.update(cfg, allow_val_change=True)
    validated = cfg["data"].get("val_size", 1) != 0
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder,
            filename="best",
            monitor="val/top1/mean" if validated else None,
            mode="max",
            save_last=True,
            enable_version_counter=False,
        ),
        LearningRateMonitor("step"),
        RichModelSummary(max_depth=1),
        RichProgressBar() if sys.stdout.isatty() else TQDMProgressBar(refresh_rate=50),
        WandbModes(),
    ]
    if cfg["train"]["ema"] is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg["train"]["ema"]))
    return pl.Trainer(
        max_epochs=cfg["schedule"]["epochs"],
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the loaders share the images out themselves
        **options,
    )


def _logger_folder(logger: DictConfig, folder: Path) -> dict[str, Any]:
    if logger._target_.endswith("WandbLogger"):
        offline = (
            not (os.environ.get("WANDB_API_KEY") or _has_wandb_login()) and "WANDB_MODE" not in os.environ
        )
        if offline:
            log.info("no W&B login: logging offline; later: wandb sync %s/wandb/offline-run-*", folder)
        return {"save_dir": str(folder), "name": folder.name, "offline": offline}
    return {"save_dir": str(folder), "name": "", "version": ""}


def _has_wandb_login() -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def finish(
    cfg: dict[str, Any],
    trainer: pl.Trainer,
    module: QuantizableClassifier,
    datamodule: ImageDataModule,
    folder: Path,
    seconds: float,
) -> dict[str, Any]:
    """Test the best checkpoint once; write ``results.json`` and ``modes.png``; print the table."""
    best = folder / "best.ckpt"
    stage = "test" if cfg["test"] else "val"
    evaluate: Any = trainer.test if cfg["test"] else trainer.validate
    metrics = evaluate(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    modes = by_mode(metrics, stage)
    results = {
        "modes": modes,
        "set": stage,
        "epochs": cfg["schedule"]["epochs"],
        "seed": cfg["seed"],
        "train_seconds": round(seconds, 1),
        "checkpoint": str(best),
        "command": " ".join(sys.argv),
        "config": cfg,
        "versions": {
            "quantizable": quantizable.__version__,
            "torch": str(torch.__version__),
            "commit": _commit(),
        },
    }
    if trainer.is_global_zero:
        write_json(folder / "results.json", results)
        plot_modes(
            folder / "modes.png",
            {"": modes},
            f"{cfg['model']['name']}, {type(datamodule).__name__}, {stage} set",
        )
        print_table(
            modes, f"{folder.name}: {stage} set, best of {cfg['schedule']['epochs']} epochs, {seconds:.0f} s"
        )
        print(f"kept in {folder}: best.ckpt, last.ckpt, config.yaml, results.json, modes.png")
    os.environ.pop(RUN_DIR, None)
    return results
