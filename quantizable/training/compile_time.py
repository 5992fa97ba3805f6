"""What compiling a run costs."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)


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
