"""One step of the optimizers of a multi-mode module, once the gradients of its modes are summed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from quantizable.interface.lightning_package import pl
from quantizable.training.optim import damp_scales, step_sizes_in_bounds
from quantizable.training.processes import average_gradients


def without_sync(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Around a backward pass: processes keep their gradients until :func:`take_step` averages them."""
    return trainer.strategy.block_backward_sync() if _sums_gradients(trainer) else nullcontext()  # type: ignore[attr-defined]


def hand_on_kept(module: Any) -> None:
    """What kept weights have collected becomes gradients of weights and step sizes."""
    with without_sync(module.trainer):
        module._kept_weights.hand_on()


def take_step(module: Any, clip_norm: float | None) -> None:
    """Every optimizer of the module steps, its step sizes within their bounds; gradients end at zero.

    Args:
        module: the :class:`quantizable.MultiModeModule` in training.
        clip_norm: largest norm of all gradients, None for no clipping.
    """
    hand_on_kept(module)
    if _sums_gradients(module.trainer):
        average_gradients(module.parameters())
    # in float16 gradients carry the loss scale until the optimizer steps
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    scale = 1.0 if scaler is None else float(scaler.get_scale())
    optimizers = module.optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        with step_sizes_in_bounds(module._step_sizes, optimizer, gradient_scale=scale):
            # behind the bounds: an outlier of a step size would use up the norm of all gradients
            if clip_norm is not None:
                module.clip_gradients(optimizer, clip_norm * scale, gradient_clip_algorithm="norm")
            if module.scheme.damp_scales:
                damp_scales(optimizer, scale)
            optimizer.step()
        optimizer.zero_grad()


def _sums_gradients(trainer: pl.Trainer) -> bool:
    return trainer.world_size > 1 and hasattr(trainer.strategy, "block_backward_sync")
