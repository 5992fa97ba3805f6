"""Optimizer and learning-rate schedule, with the parameter groups that quantizable training needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from quantizable.functional import SMALLEST_SCALE
from quantizable.quantizers import Quantizer


@dataclass
class OptimizerConfig:
    """Settings of :func:`configure`.

    Attributes:
        name: any of timm's optimizers (``sgd`` is with Nesterov momentum, ``adamw``, ...).
        lr: learning rate, > 0.
        weight_decay: of weights; norms, biases and quantizers' parameters have none.
        momentum: of SGD, in [0, 1).
        quantizer_lr: factor on the learning rate of the quantizers' parameters, > 0.
        schedule: ``cosine`` to 0, ``linear`` to 0, ``multistep`` (/10 at the milestones) or ``constant``.
        milestones: fractions of the run, for ``multistep``.
        warmup: fraction of the run with a linearly growing rate, in [0, 1).
        options: further arguments of the optimizer.
    """

    name: str = "sgd"
    lr: float = 0.05
    weight_decay: float = 1e-4
    momentum: float = 0.9
    quantizer_lr: float = 1.0
    schedule: Literal["cosine", "linear", "multistep", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.milestones = tuple(self.milestones)
        for what in ("lr", "weight_decay", "momentum", "quantizer_lr", "warmup"):
            if not isinstance(getattr(self, what), int | float):
                raise ValueError(f"{what}={getattr(self, what)!r} is not a number")
        for what, ok, allowed in (
            ("name", is_optimizer(self.name), "an optimizer of timm, as sgd or adamw"),
            ("lr", self.lr > 0, "greater than 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("quantizer_lr", self.quantizer_lr > 0, "greater than 0"),
            ("warmup", 0 <= self.warmup < 1, "in [0, 1)"),
            (
                "schedule",
                self.schedule in ("cosine", "linear", "multistep", "constant"),
                "cosine, linear, multistep or constant",
            ),
        ):
            if not ok:
                raise ValueError(f"{what}={getattr(self, what)!r} is not allowed; it must be {allowed}")
        wrong = [at for at in self.milestones if not self.warmup < at < 1]
        if self.schedule == "multistep" and wrong:
            shown, least = list(self.milestones), self.warmup
            raise ValueError(
                f"milestones={shown}: {wrong[0]} is not between {least} (warmup) and 1: shares of the run"
            )

    @property
    def has_an_end(self) -> bool:
        """True if the schedule needs the length of the run."""
        return self.schedule != "constant" or self.warmup > 0


def optimizer_config(settings: OptimizerConfig | dict[str, Any] | None) -> OptimizerConfig:
    """The settings of an optimizer from a dictionary of them, or those by default.

    Raises:
        ValueError: a key that is no setting, or a value out of range.
    """
    if isinstance(settings, OptimizerConfig):
        return settings
    try:
        return OptimizerConfig(**settings or {})
    except TypeError as error:  # a key that is no setting
        raise ValueError(f"optimizer: {error}") from error


def is_optimizer(name: str) -> bool:
    """True if timm has an optimizer of that name."""
    try:
        get_optimizer_info(name.lower().removeprefix("lookahead_"))
    except ValueError:
        return False
    return True


def parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases, and the quantizers' parameters, without."""
    of_quantizers = {id(p) for m in network.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    weights: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    quantizers: list[nn.Parameter] = []
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in of_quantizers:
            quantizers.append(parameter)
        else:
            (weights if parameter.ndim > 1 else norms).append(parameter)
    groups = [
        {"name": "weights", "params": weights, "weight_decay": config.weight_decay},
        {"name": "norms", "params": norms, "weight_decay": 0.0},
        {
            "name": "quantizers",
            "params": quantizers,
            "weight_decay": 0.0,
            "lr": config.lr * config.quantizer_lr,
        },
    ]
    return [group for group in groups if group["params"]]


def positive_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The quantizers' step sizes and clipping levels (``scale``, ``alpha``), which must stay above 0."""
    return [
        parameter
        for module in network.modules()
        if isinstance(module, Quantizer)
        for name, parameter in module.named_parameters()
        if name.rpartition(".")[2] in ("scale", "alpha")
    ]


@contextmanager
def step_sizes_in_bounds(
    step_sizes: Sequence[nn.Parameter], optimizer: Any, share: float = 0.1, gradient_scale: float = 1.0
) -> Iterator[None]:
    """Around an optimizer's step: step sizes and clipping levels change by at most a ``share`` of themselves.

    One outlier among their gradients would push them below zero, where everything is quantized to 0 and
    hardly a gradient leads back: of three ResNet-20 trained for 2 bits alone, one died so within 20 steps.
    Gradients, and SGD's momentum of them, are cut to those of such a change at the highest learning rate
    of the schedule: what a warm-up's first small rate lets pass would be remembered until the rate is large.
    What is no longer positive when it comes in, starts again from 1e-9.

    Args:
        step_sizes: :func:`positive_parameters` of the network; of the optimizer's, those with a gradient.
        optimizer: knows the learning rate of each, and a schedule's highest as ``initial_lr``.
        share: of the value before the step, between 0 and 1.
        gradient_scale: what the gradients are multiplied with at this moment (float16's loss scale). Where
            it is not 1 and a gradient overflowed, all are left to the scaler, which takes no such step.
    """
    rates = {
        id(p): max(float(group["lr"]), float(group.get("initial_lr", 0.0)), 1e-12)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    positive = [
        parameter for parameter in step_sizes if parameter.grad is not None and id(parameter) in rates
    ]
    gradients: list[Tensor] = [parameter.grad for parameter in positive if parameter.grad is not None]
    if not positive or (gradient_scale != 1.0 and not _all_finite(gradients)):
        yield
        return
    before: list[Tensor] = [parameter.detach().clamp_min(SMALLEST_SCALE) for parameter in positive]
    limits = [*torch._foreach_mul(before, [share / rates[id(p)] for p in positive])]
    _clamp(gradients, [*torch._foreach_mul(limits, gradient_scale)])
    yield
    now: list[Tensor] = [parameter.detach() for parameter in positive]
    torch._foreach_maximum_(now, [*torch._foreach_mul(before, 1 - share)])
    torch._foreach_minimum_(now, [*torch._foreach_mul(before, 1 + share)])
    torch._foreach_clamp_min_(now, SMALLEST_SCALE)
    states = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in positive]
    kept = [(state, limit) for state, limit in zip(states, limits, strict=True) if state is not None]
    _clamp([state for state, _ in kept], [limit for _, limit in kept])


def _clamp(tensors: list[Tensor], limits: list[Tensor]) -> None:
    """Each tensor to at most its limit in absolute value, in place."""
    if tensors:
        torch._foreach_minimum_(tensors, limits)
        torch._foreach_maximum_(tensors, [*torch._foreach_neg(limits)])


def _all_finite(tensors: list[Tensor]) -> bool:
    return bool(torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all())


def damp_scales(optimizer: Any, gradient_scale: float = 1.0) -> None:
    """Shrink the gradient of each step size by ``1 - mean min(|gradient|, 1)`` (see :class:`Scheme`).

    ``gradient_scale``: what the gradients are multiplied with at this moment (float16's loss scale).
    """
    for group in optimizer.param_groups:
        if group.get("name") == "quantizers":
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad *= 1 - (parameter.grad.abs() / gradient_scale).clamp(max=1).mean()


def configure(config: OptimizerConfig, groups: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Optimizer and schedule in Lightning's form; the schedule counts steps, ``steps`` in all."""
    # Nesterov momentum of 0 is refused; "momentum" is timm's name of SGD without Nesterov
    plain = config.name == "sgd" and config.momentum == 0
    optimizer = create_optimizer_v2(
        groups,
        opt="momentum" if plain else config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **config.options,
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule(config, optimizer, steps), "interval": "step"},
    }


def schedule(config: OptimizerConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate over ``steps`` optimizer steps."""
    warm = round(config.warmup * steps)
    rest = max(1, steps - warm)
    main: LRScheduler
    if config.schedule == "cosine":
        main = CosineAnnealingLR(optimizer, rest)
    elif config.schedule == "linear":
        main = LinearLR(optimizer, 1.0, 0.0, total_iters=rest)
    elif config.schedule == "multistep":
        main = MultiStepLR(optimizer, [round(m * steps) - warm for m in config.milestones])
    else:
        main = ConstantLR(optimizer, factor=1.0)
    if not warm:
        return main
    return SequentialLR(optimizer, [LinearLR(optimizer, 1e-3, total_iters=warm), main], milestones=[warm])
