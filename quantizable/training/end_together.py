"""The processes of one run end together, and soon, when one is stopped or fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

PATIENCE = 10.0  # seconds that the other processes have to end by themselves


class EndTogether(Callback):
    """Ends a run at SIGTERM at once, and with it the processes that it started, whatever stops it.

    Lightning's own answer to the signal is an exchange between the processes, in the middle of whatever they
    exchange already: they wait for each other for ever. What is on disk is whole at any moment (checkpoints
    are renamed into place), so that nothing has to be waited for. Under SLURM, which requeues, Lightning's
    stays.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen for SIGTERM, behind Lightning's own registration."""
        if SLURMEnvironment.detect() or threading.current_thread() is not threading.main_thread():
            return

        def stop(*_: Any) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if trainer.local_rank == 0:  # the others are stopped by the first
                place = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
                print(
                    f"error: stopped by SIGTERM in {place}; resume=last goes on", file=sys.stderr, flush=True
                )
            raise SIGTERMException(128 + signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop)

    on_validation_start = on_test_start = on_train_start

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """End the processes that this one started."""
        started = getattr(trainer.strategy.launcher, "procs", [])
        others = [process for process in started if isinstance(process, subprocess.Popen)]
        if others:
            started.clear()  # or Lightning's observer, when one of them has ended, kills this one
        for process in others:
            process.terminate()
        for process in others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def is_lost(error: RuntimeError) -> bool:
    """True if an exchange between processes failed since another process is gone."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)
