"""The main job: from a composed configuration to a trained network, its table and its picture."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import wandb
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.loggers import WandbLogger

import quantizable
from quantizable.data import DataModule
from quantizable.data.layout import has_validation
from quantizable.data.text import Text
from quantizable.interface.choices import NETWORK_SETTINGS
from quantizable.models.text import RecurrentText
from quantizable.network import QuantizableNetwork
from quantizable.report.files import finite, write_json
from quantizable.report.plots import plot_modes
from quantizable.report.tables import by_mode, print_table
from quantizable.storage.checkpoint import load_checkpoint, read_checkpoint
from quantizable.storage.qz import save_qz
from quantizable.training import trackers
from quantizable.training.classifier import QuantizableClassifier
from quantizable.training.compile_time import CompileTime
from quantizable.training.configuration import read_settings
from quantizable.training.description import check_same_network, describe, measured_images
from quantizable.training.end_together import EndTogether, is_lost
from quantizable.training.finetuned import network_to_finetune
from quantizable.training.float_networks import float_options, make_teacher
from quantizable.training.loggers import make_loggers
from quantizable.training.memory import keep_freed_memory
from quantizable.training.metrics_file import forget_rows_after
from quantizable.training.mode_logging import ModeLogging
from quantizable.training.optim import optimizer_config
from quantizable.training.precision import Execution, check_accelerator, fastest_execution
from quantizable.training.recompute import recompute_activations
from quantizable.training.run_folder import (
    AtomicCheckpointIO,
    best_of,
    command,
    commit,
    is_first_process,
    run_folder,
    write_config,
)
from quantizable.training.start import start_from
from quantizable.training.test_set import check_test_set

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, Any]:
    """Train as ``conf/train.yaml`` says, test the best checkpoint once, leave table and picture.

    Returns:
        what ``results.json`` holds: per mode the test metrics, the run's folder, seconds, versions.

    Raises:
        ValueError, OSError: a setting that cannot work, before any training.
    """
    cfg = read_settings(config)
    check_accelerator(cfg["trainer"]["accelerator"])
    quiet()
    with run_folder(cfg) as (folder, resume):
        return _train(cfg, config, folder, resume)


def _train(cfg: dict[str, Any], config: DictConfig, folder: Path, resume: Path | None) -> dict[str, Any]:
    pl.seed_everything(cfg["seed"], workers=True, verbose=False)
    optimizer_config(cfg["schedule"]["optimizer"])  # refused before data are prepared, which may take long
    datamodule: DataModule = instantiate(config.data)
    if is_first_process():  # a missing data set, or one too small, is found before a network is built
        datamodule.prepare_data()
    if cfg["start"] is not None and isinstance(datamodule, Text):
        use_known_words(datamodule, cfg["start"])
    if is_first_process():
        datamodule.setup("fit")
        check_test_set(cfg, datamodule)
    network = network_to_finetune(cfg, datamodule, resumes=resume is not None)
    module = make_module(cfg, instantiate(config.scheme), datamodule, network)
    if resume is not None:
        check_same_network(describe(module.network, module.architecture, datamodule), resume)
    elif cfg["start"] is not None and network is None:
        start_from(module.network, cfg["start"])
    trainer = make_trainer(cfg, config, folder, module)
    if is_first_process():
        write_config(config, folder)
        modes, weights = cfg["bits"]["modes"], sum(p.numel() for p in module.parameters())
        log.info("%s, %.2f M parameters, modes %s: %s", cfg["model"]["name"], weights / 1e6, modes, folder)
        if resume is not None:
            forget_rows_after(folder / "metrics.csv", read_checkpoint(resume))
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    try:
        trainer.fit(module, datamodule, ckpt_path=resume, weights_only=True)
        return finish(cfg, trainer, module, datamodule, folder)
    except MisconfigurationException as error:  # as a share of the batches that comes to none
        raise ValueError(f"trainer: {error}") from error
    except RuntimeError as error:
        if is_lost(error):
            raise ConnectionError(
                "another process of this run has ended, its own message says why if it could give one; what "
                "was saved before is intact: resume=last goes on"
            ) from error
        raise
    finally:
        if isinstance(trainer.logger, WandbLogger):
            wandb.finish()  # or the next run of a sweep would log into this one


def use_known_words(datamodule: Text, start: str) -> None:
    """Read the texts with the words of the checkpoint that a run starts from, which its weights are for."""
    known = read_checkpoint(start)["quantizable"]["data"].get("vocabulary")
    if known:
        datamodule.vocabulary = known


def quiet() -> None:
    """Keep Lightning's advice out of the log, which is the same at every start; its errors stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for message in (
        "Experiment logs directory",
        "Checkpoint directory",
        "The number of training batches",
        "It is recommended to use",
        ".*does not have many workers",
        ".*treespec, LeafSpec",
        "You're using the WeightAveraging callback",
    ):
        warnings.filterwarnings("ignore", message)


def make_module(
    cfg: dict[str, Any], scheme: Any, datamodule: DataModule, network: QuantizableNetwork | None = None
) -> QuantizableClassifier:
    """The network in its Lightning module; by default one that is built as the configuration says."""
    model, bits = cfg["model"], cfg["bits"]
    built: dict[str, Any] = {
        "quantizer": cfg["quantizer"]["name"],
        "weights": model["weights"],
        "reset_head": model["reset_head"],
        "model_options": {
            **float_options(cfg, datamodule),
            "pretrained": model["pretrained"],
            **(model["options"] or {}),
        },
        "quantize_options": {key: cfg[group][key] for key, group in NETWORK_SETTINGS.items()},
    }
    return QuantizableClassifier(
        model["name"] if network is None else network,
        datamodule.num_classes,
        bits["modes"],
        **(built if network is None else {}),
        scheme=scheme,
        optimizer=cfg["schedule"]["optimizer"],
        label_smoothing=cfg["train"]["label_smoothing"],
        accumulate=cfg["train"]["accumulate"],
        clip_norm=cfg["train"]["clip_norm"],
        keep_weights=cfg["train"]["keep_weights"],
        noise_sigma=cfg["train"]["noise_sigma"],
        seed=cfg["seed"],
        strategy=instantiate(cfg["strategy"]),
        teacher=make_teacher(cfg, datamodule),
    )


def make_trainer(
    cfg: dict[str, Any], config: DictConfig, folder: Path, module: QuantizableClassifier
) -> pl.Trainer:
    """Lightning's Trainer: it keeps checkpoints, averages, resumes, distributes and shows progress."""
    options = dict(cfg["trainer"])
    execution = execution_for(module, options["accelerator"])
    channels_last, compiled = options.pop("channels_last"), options.pop("compile")
    if options["precision"] == "auto":
        options["precision"] = execution.precision
    else:
        execution = execution._replace(reason=f"{options['precision']}, as asked for")
    say = log.info if is_first_process() else log.debug
    say("%s; %s", execution.reason, "channels last" if channels_last else "memory layout as it is")
    if channels_last:
        execution.prepare(module.network)
        if module.teacher is not None:
            execution.prepare(module.teacher)
    if compiled:
        say("compiling: the first step takes about a minute, more for deep networks")
        # a graph for each kind of mode (quantized, float, weights alone), in training and in validation;
        # beyond the limit torch goes on without compiling
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        module.network.model.compile()
    if options["deterministic"]:
        options["deterministic"] = "warn"
    if cfg["train"]["recompute_activations"]:
        recompute_activations(module.network)
    if options["sync_batchnorm"] and (options["accelerator"] == "cpu" or not torch.cuda.is_available()):
        say("batch norms are not synchronized: torch can do that on GPUs alone")
        options["sync_batchnorm"] = False
    shown = options.pop("enable_progress_bar", True) and sys.stdout.isatty()  # a file is no place for bars
    validated = has_validation(cfg["data"]) and options["limit_val_batches"] != 0
    callbacks: list[Callback] = [
        *checkpoints(folder, validated),
        LearningRateMonitor("step"),
        *([RichProgressBar()] if shown else []),
        ModeLogging(cfg["train"]["histograms_every"]),
        EndTogether(),
        Timer(),  # of all sessions of a run that was resumed
        *([CompileTime()] if compiled else []),
    ]
    if cfg["train"]["ema"] is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg["train"]["ema"]))
    try:
        return pl.Trainer(
            max_epochs=cfg["schedule"]["epochs"],
            logger=make_loggers(cfg, config, folder, module),
            callbacks=callbacks,
            default_root_dir=folder,
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=shown,
            enable_model_summary=False,
            enable_autolog_hparams=False,  # the whole configuration is logged instead
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the loaders share the images out themselves
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:  # TypeError: what it does not have
        raise ValueError(f"trainer: {error}") from error


def execution_for(module: QuantizableClassifier, accelerator: str) -> Execution:
    """What is fastest on the machine; for recurrent networks of texts float32 (see `nn/recurrence.py`)."""
    execution = fastest_execution(accelerator)
    if isinstance(module.network.model, RecurrentText):  # bf16 took 15 to 20 % longer on AVX-512 BF16
        return execution._replace(
            precision="32-true", reason="float32, in which recurrent layers train fastest"
        )
    return execution


def checkpoints(folder: Path, validated: bool) -> list[Callback]:
    """Keep ``best.ckpt`` and, of every epoch, ``last.ckpt``.

    Lightning's ``save_last`` skips the epochs that are not the best so far, from which a run must be
    able to resume; so that each has a callback of its own. Without validation the last is the best.
    """
    kept: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    if not validated:
        return [ModelCheckpoint(filename="best", save_last=True, **kept)]
    return [
        ModelCheckpoint(filename="best", monitor="val/top1/mean", mode="max", **kept),
        ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **kept),
    ]


def finish(
    cfg: dict[str, Any],
    trainer: pl.Trainer,
    module: QuantizableClassifier,
    datamodule: DataModule,
    folder: Path,
) -> dict[str, Any]:
    """Test the best checkpoint once; write ``results.json`` and ``modes.png``; print the table."""
    seconds = next(c for c in trainer.callbacks if isinstance(c, Timer)).time_elapsed()  # type: ignore[attr-defined]
    # an average of weights has its say in training alone: best.ckpt holds the averaged weights already
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    best = trainer.strategy.broadcast(best_of(folder))
    stage = "test" if cfg["test"] else "val"
    if isinstance(trainer.logger, WandbLogger):
        kept: Any = trainer.checkpoint_callback
        trainer.logger.after_save_checkpoint(kept)  # the artifact is the best one
    evaluate: Any = trainer.test if cfg["test"] else trainer.validate
    metrics = evaluate(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    modes = by_mode(metrics, stage)
    results = {
        "modes": modes,
        "set": stage,
        "images": measured_images(datamodule, trainer, stage),
        "epochs": cfg["schedule"]["epochs"],
        "seed": cfg["seed"],
        "train_seconds": round(seconds, 1),
        "checkpoint": str(best),
        "command": command(),
        "config": cfg,
        "versions": {
            "quantizable": quantizable.__version__,
            "torch": str(torch.__version__),
            "commit": commit(),
        },
    }
    if trainer.is_global_zero:
        log_integers(trainer, best, modes)
        write_json(folder / "results.json", finite(results))
        plot_modes(
            folder / "modes.png",
            {"": modes},
            f"{cfg['model']['name']}, {type(datamodule).__name__}, {stage} set",
        )
        title = f"{folder.name}: {stage} set, best of {cfg['schedule']['epochs']} epochs, {seconds:.0f} s"
        print_table(modes, title, datamodule.num_classes)
        print(f"kept in {folder}: best.ckpt, last.ckpt, config.yaml, results.json, modes.png")
    return results


def log_integers(trainer: pl.Trainer, best: Path, modes: dict[str, dict[str, float]]) -> None:
    """The best network as a ``.qz`` file, with the accuracy of its modes, to a tracker that keeps files."""
    keepers = [one for one in trainer.loggers if trackers.keeps_files(one)]
    if not keepers:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.qz"
        try:
            save_qz(load_checkpoint(best), path)
        except ValueError as error:  # float modes alone, weights without an integer form, a network of hf-hub
            log.info("no .qz among the artifacts: %s", error)
            return
        for logger in keepers:
            trackers.log_file(logger, path, {"modes": finite(modes)})
