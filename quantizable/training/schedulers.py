"""When learning-rate schedulers step, and how often in a run.

Lightning leaves schedulers alone where a module steps its optimizers itself. Here they step as under
automatic optimization, so that a user's ``configure_optimizers`` means what it means in any other module.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from quantizable.interface.lightning_package import pl

SETTINGS = tuple(field.name for field in fields(pl.utilities.types.LRSchedulerConfig))


class Schedulers(pl.Callback):
    """Steps the schedulers of a :class:`MultiModeModule`, each after ``frequency`` of its ``interval``.

    ``epoch`` counts epochs, ``step`` the optimizer steps of an epoch (batches, where the optimizer steps
    after every mode). A scheduler that waits for a metric steps at the end of an epoch, behind its
    validation and before its checkpoint is written.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Give each scheduler the settings that Lightning dropped.

        Raises:
            ValueError: an optimizer or a scheduler that cannot step here.
        """
        _follow_search(trainer)
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            raise ValueError(
                "LBFGS computes the loss several times in one step, and a step here visits several modes; "
                "choose another optimizer"
            )
        for config in trainer.lr_scheduler_configs:
            for name, value in pl_module.scheduler_settings.get(id(config.scheduler), {}).items():
                setattr(config, name, value)
            config.reduce_on_plateau |= isinstance(config.scheduler, ReduceLROnPlateau)
            _check(
                config,
                own_step=pl.utilities.model_helpers.is_overridden(
                    "lr_scheduler_step", pl_module, pl.LightningModule
                ),
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Those that count steps; behind the last batch those that count epochs and wait for no metric."""
        done, last = batch_idx + 1, trainer.is_last_batch
        if done % pl_module.accumulate == 0 or last:
            _step("step", -(-done // pl_module.accumulate), (False, True), trainer, pl_module)
        if last:
            _step("epoch", trainer.current_epoch + 1, (False,), trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Those that wait for a metric of the epoch, unless the run stops within it."""
        if trainer.is_last_batch:
            _step("epoch", trainer.current_epoch + 1, (True,), trainer, pl_module)


def callbacks_for(trainer: pl.Trainer) -> list[pl.Callback]:
    """What a module that is about to fit adds to its trainer, unless an earlier fit has.

    Raises:
        ValueError: the trainer is asked for what the module does itself.
    """
    if trainer.gradient_clip_val:
        value = f"{trainer.gradient_clip_val:g}"
        if trainer.gradient_clip_algorithm == "value":
            raise ValueError("gradients are clipped by their norm alone: give the module clip_norm=...")
        raise ValueError(
            f"clip gradients by the module: clip_norm={value}, not Trainer(gradient_clip_val={value})"
        )
    if trainer.accumulate_grad_batches != 1:
        count = trainer.accumulate_grad_batches
        raise ValueError(
            f"accumulate by the module: accumulate={count}, not Trainer(accumulate_grad_batches={count})"
        )
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for one in callbacks:
        if isinstance(one, pl.callbacks.GradientAccumulationScheduler):
            raise ValueError(
                f"accumulate by the module: accumulate={max(one.scheduling.values())}, not "
                f"GradientAccumulationScheduler({one.scheduling}); it is the same in all epochs"
            )
    return [] if has_schedulers(trainer) else [Schedulers()]


def has_schedulers(trainer: pl.Trainer) -> bool:
    """True if schedulers will step."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, Schedulers) for callback in callbacks)


def step_in_trial(trainer: pl.Trainer) -> None:
    """After an optimizer step of Lightning's search for a learning rate: on to the next rate."""
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, LRScheduler):  # not one that waits for a metric
            config.scheduler.step()


def _follow_search(trainer: pl.Trainer) -> None:
    """Optimizers and schedules once more: they were made before a search that replaced the rate or the
    batches.

    Those of a user's own ``configure_optimizers`` that takes no account of the rate stay as Lightning left
    them, with the rate put in.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    rates = [
        one.optimal_lr
        for one in callbacks
        if isinstance(one, pl.callbacks.LearningRateFinder) and one.optimal_lr
    ]
    sizes = [
        one for one in callbacks if isinstance(one, pl.callbacks.BatchSizeFinder) and one.optimal_batch_size
    ]
    if not rates and not sizes:
        return
    strategy = trainer.strategy
    kept = strategy.optimizers, strategy.lr_scheduler_configs
    strategy.setup_optimizers(trainer)
    groups = [group for optimizer in strategy.optimizers for group in optimizer.param_groups]
    used = {group.get(name) for group in groups for name in ("lr", "initial_lr")}
    if rates and rates[-1].suggestion() not in used:
        strategy.optimizers, strategy.lr_scheduler_configs = kept


def require(module: pl.LightningModule) -> None:
    """``TypeError`` if a subclass dropped :class:`Schedulers`: no scheduler would ever step."""
    if not has_schedulers(module.trainer):
        raise TypeError(
            f"{type(module).__name__}.configure_callbacks must return super().configure_callbacks() as well"
        )


def _step(interval: str, count: int, kinds: tuple[bool, ...], trainer: pl.Trainer, module: Any) -> None:
    for config in trainer.lr_scheduler_configs:
        due = config.interval == interval and count % config.frequency == 0
        if not due or config.reduce_on_plateau not in kinds:
            continue
        metric = None
        if config.reduce_on_plateau:
            metric = trainer.callback_metrics.get(str(config.monitor))
            if metric is None:
                text = (
                    f"the scheduler waits for the metric {config.monitor!r}, which is not there after "
                    f"{interval} {count}; there are {', '.join(sorted(trainer.callback_metrics)) or 'none'}"
                )
                if config.strict:
                    raise ValueError(f"{text}; monitor one of these, or give strict=False to skip the step")
                pl.utilities.rank_zero_warn(text)
                continue
        module.lr_scheduler_step(config.scheduler, metric)


def _check(config: pl.utilities.types.LRSchedulerConfig, own_step: bool) -> None:
    """``ValueError`` with one line if Lightning's settings of a scheduler mean nothing."""
    name = type(config.scheduler).__name__
    if config.interval not in ("step", "epoch"):
        raise ValueError(f"the interval of {name} is {config.interval!r}; it is 'step' or 'epoch'")
    if not isinstance(config.frequency, int) or config.frequency < 1:
        raise ValueError(f"the frequency of {name} is {config.frequency!r}; it is an integer of at least 1")
    if config.reduce_on_plateau and config.monitor is None:
        raise ValueError(
            f"{name} needs the name of a metric: give monitor='val/loss/32' beside the scheduler"
        )
    if not isinstance(config.scheduler, LRScheduler | ReduceLROnPlateau) and not own_step:
        raise ValueError(
            f"{name} is not one of torch's schedulers; override lr_scheduler_step(scheduler, metric)"
        )


def keep_settings(configure: Callable[..., Any]) -> Callable[..., Any]:
    """``configure_optimizers`` that notes in ``scheduler_settings`` what Lightning drops: the monitor."""

    @functools.wraps(configure)
    def noting(module: Any) -> Any:
        warnings.filterwarnings("ignore", r"The lr scheduler dict contains the key\(s\)")  # "ignored"
        configured = configure(module)
        module.scheduler_settings = scheduler_settings(configured)
        return configured

    return noting


def scheduler_settings(configured: Any, monitor: str | None = None) -> dict[int, dict[str, Any]]:
    """The settings of each scheduler, by its ``id``, from any form that ``configure_optimizers`` may return.

    Raises:
        ValueError: a setting that Lightning does not have.
    """
    if isinstance(configured, list | tuple):
        parts = [scheduler_settings(part, monitor) for part in configured]
        return {scheduler: settings for part in parts for scheduler, settings in part.items()}
    if isinstance(configured, dict) and "optimizer" in configured:
        return scheduler_settings(configured.get("lr_scheduler"), configured.get("monitor", monitor))
    if isinstance(configured, dict):
        unknown = [name for name in configured if name not in SETTINGS]
        if unknown or "scheduler" not in configured:
            what = f"has no setting {unknown[0]!r}" if unknown else "lacks the scheduler itself"
            raise ValueError(f"the dictionary of a scheduler {what}; its keys are {', '.join(SETTINGS)}")
        scheduler, given = configured["scheduler"], {"monitor": monitor, **configured}
    else:
        scheduler, given = configured, {"monitor": monitor}
    given.setdefault("reduce_on_plateau", isinstance(scheduler, ReduceLROnPlateau))
    return {id(scheduler): {name: given[name] for name in given if name != "scheduler"}}


def scheduled_steps(trainer: pl.Trainer, accumulate: int, optimizer_steps: int) -> int:
    """How often a schedule steps until the run ends by ``max_epochs`` or ``max_steps``, at least once.

    Args:
        trainer: about to fit; with a run that goes on in the same trainer, what is left of it counts.
        accumulate: batches per step of the schedule.
        optimizer_steps: optimizer steps per step of the schedule: the modes, where each has its own.

    Raises:
        ValueError: the trainer has no limit, or one of epochs alone and a data set that does not know its
            length.
    """
    whole = trainer.ckpt_path is not None  # a resumed schedule is restored, with the steps it has done
    done_epochs, done_steps = (0, 0) if whole else (trainer.current_epoch, trainer.global_step)
    ends: list[int] = []
    if trainer.max_steps != -1:
        ends.append(math.ceil((trainer.max_steps - done_steps) / optimizer_steps))
    if trainer.max_epochs not in (None, -1):
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches if trainer.limit_train_batches else 0
        if batches != float("inf"):
            ends.append(math.ceil(batches / accumulate) * (trainer.max_epochs - done_epochs))  # type: ignore[operator]
        elif not ends:
            raise ValueError(
                "the training data do not know their length, so that nobody knows where the schedule ends: "
                "give Trainer max_steps or limit_train_batches, or schedule='constant' without warm-up"
            )
    if not ends:
        raise ValueError("the schedule needs the length of the run: give Trainer max_epochs or max_steps")
    return max(1, min(ends))
