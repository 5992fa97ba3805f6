"""What Lightning's own callbacks do not do: show the modes of a run, and what compiling it costs."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from quantizable.report.tables import by_mode

log = logging.getLogger(__name__)


class WandbModes(Callback):
    """On W&B: after each validation, accuracy against bits as a line series over epochs, and at the end a
    table.

    The per-mode scalars (``val/top1/4``) are logged by the module; this adds what compares the modes at a
    glance, once the metrics of an epoch are complete: after its ``on_..._epoch_end``.
    """

    def __init__(self) -> None:
        self.curves: list[tuple[int, dict[str, float]]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(trainer.logger, WandbLogger):
            return
        import wandb

        modes = by_mode(trainer.callback_metrics, "val")
        if not modes or not trainer.is_global_zero:
            return
        self.curves = [*self.curves, (trainer.current_epoch, {m: 100 * v["top1"] for m, v in modes.items()})][
            -20:
        ]
        names = list(modes)
        chart = wandb.plot.line_series(
            xs=list(range(len(names))),
            ys=[[curve.get(name, float("nan")) for name in names] for _, curve in self.curves],
            keys=[f"epoch {epoch}" for epoch, _ in self.curves],
            title="top-1 against bits: " + ", ".join(f"{i} = {name}" for i, name in enumerate(names)),
            xname="mode",
        )
        trainer.logger.experiment.log({"val/top1_against_bits": chart})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(trainer.logger, WandbLogger) or not trainer.is_global_zero:
            return
        import wandb

        modes = by_mode(trainer.callback_metrics, "test")
        columns: list[Any] = ["mode", "top1", "top5", "loss", "disagreement"]
        rows: list[list[Any]] = [[mode, *(values[c] for c in columns[1:])] for mode, values in modes.items()]
        trainer.logger.experiment.log({"test/modes": wandb.Table(columns, rows)})


class CompileTime(Callback):
    """Logs the seconds of a run's first two steps: what compiling costs, and what a step costs after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if len(self.seconds) < 2:
            self.seconds.append(time.perf_counter() - self.started)
            if len(self.seconds) == 2 and trainer.is_global_zero:
                log.info("compiled: the first step took %.1f s, the second %.1f s", *self.seconds)
