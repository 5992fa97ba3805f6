"""LSQ: the step size is learned together with the weights.

Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantizable.functional import QParams, fake_quantize, positive, weight_in_product
from quantizable.quantizers import fused_relu
from quantizable.quantizers.base import Level, Quantizer
from quantizable.quantizers.step_size import channel_shape, check_init, paper_scale, search_scales


class _LSQ(Quantizer):
    """What weights and activations share: one learned ``scale`` per bit-width."""

    axis: int | None = None

    def __init__(self, bits: Iterable[int], init: str = "search") -> None:
        self.init = check_init(init)
        super().__init__(bits)

    def initialize(self, x: Tensor) -> None:
        levels = self.levels.values()
        if self.init == "paper":
            scales = [paper_scale(x, level.quant_max, self.axis) for level in levels]
        else:
            scales = search_scales(x, [(level.quant_min, level.quant_max) for level in levels], self.axis)
        for level, scale in zip(levels, scales, strict=True):
            level.scale.copy_(positive(scale))

    def qparams(self, x: Tensor, bits: int | None = None) -> QParams:
        level = self.level(bits)
        scale = positive(level.scale.detach())
        return QParams(scale, torch.zeros_like(scale), level.quant_min, level.quant_max)

    def elements(self, x: Tensor, level: Level) -> float:
        """How many elements share a step size: n of sec. 2.2."""
        raise TypeError("defined by LSQWeight and LSQActivation")

    def grad_scale(self, x: Tensor, level: Level) -> float | Tensor:
        """Factor on the gradient of the step size (sec. 2.2)."""
        return (self.elements(x, level) * level.bounds()[1]) ** -0.5

    def fake_quantize(self, x: Tensor, level: Level, in_product: bool = False) -> Tensor:
        low, high = level.bounds()
        return fake_quantize(x, level.scale, None, low, high, self.grad_scale(x, level), in_product)


def at_the_weights_rate(factor: float | Tensor, high: int | Tensor) -> float | Tensor:
    """``min(factor, 1 / high^2)``, scalars: a clipped weight moves no faster than one that is not.

    Our extension of LSQ's gradient scale (sec. 2.2) for small layers; below ``high^3`` weights to a step size
    it is the second that counts.

    A clipped weight is ``high * s``, so that a gradient g moves it by ``high^2 * factor * g``: with LSQ's
    factor at 8 bits, 144 weights to a step size, 119 times as far as g moves any other weight. Step sizes of
    single channels went astray so (docs/results.md).
    """
    if isinstance(factor, Tensor) or isinstance(high, Tensor):
        return torch.minimum(torch.as_tensor(factor), torch.as_tensor(high) ** -2.0)
    return min(factor, high**-2.0)


def corrected(x: Tensor, level: Level) -> Tensor:
    """``x`` with what reconstruction has learned to add at this level."""
    return x if level.correction is None else x + level.correction.to(x.dtype)


class LSQWeight(_LSQ):
    """``w_q = s * clip(round(w / s), -2^(k-1), 2^(k-1) - 1)`` with a learned ``s`` for each bit-width.

    The gradient of ``s`` is scaled by ``1 / sqrt(n * quant_max)``, n = weights per step size (sec. 2.2).

    Args:
        weight: the float weight; the step sizes start from it.
        bits: bit-widths, 2 to 16.
        axis: axis of the output channels for one ``s`` per channel (our extension), None for one in all.
        init: ``"search"`` (p-norm search, see ``step_size.search_scales``) or ``"paper"`` (``paper_scale``).
    """

    def __init__(
        self, weight: Tensor, bits: Iterable[int], axis: int | None = None, init: str = "search"
    ) -> None:
        self.axis = axis
        self.scale_shape = channel_shape(weight, axis)
        super().__init__(bits, init)
        self.refit(weight)

    def make_level(self, bits: int) -> Level:
        return Level(bits, signed=True, scale=torch.ones(self.scale_shape))

    def initialize(self, x: Tensor) -> None:
        for level in self.levels.values():
            level.correction = None  # of other weights
        super().initialize(x)

    def codes(self, x: Tensor, bits: int | None = None) -> Tensor:
        return super().codes(corrected(x, self.level(bits)), bits)

    def fake_quantize(self, x: Tensor, level: Level, in_product: bool = False) -> Tensor:
        return super().fake_quantize(corrected(x, level), level, in_product)

    def elements(self, x: Tensor, level: Level) -> float:
        return x.numel() / level.scale.numel()

    def grad_scale(self, x: Tensor, level: Level) -> float | Tensor:
        return at_the_weights_rate(super().grad_scale(x, level), level.bounds()[1])


class LSQActivation(_LSQ):
    """LSQ on activations: unsigned if the data seen at initialization has no negative value.

    The step sizes come from ``calibrate`` or from the first training batch. The gradient of ``s`` is
    scaled by ``1 / sqrt(n * quant_max)``, n = features of one sample (sec. 2.2).

    Args:
        bits: bit-widths, 2 to 16.
        init: ``"search"`` or ``"paper"``, as for the weights.

    Attributes:
        calls_a_sample: how many calls share the features of one sample: a recurrent layer's states come one
            step at a time.
    """

    calls_a_sample = 1.0

    def starts_initialized(self) -> bool:
        return False

    def make_level(self, bits: int) -> Level:
        return Level(bits, signed=False, scale=torch.ones(()))

    def initialize(self, x: Tensor) -> None:
        for level in self.levels.values():
            level.set_signed(bool(x.min() < 0))
        super().initialize(x)

    def elements(self, x: Tensor, level: Level) -> float:
        return x.numel() / x.shape[0] * self.calls_a_sample

    def forward(self, x: Tensor, **options: bool) -> Tensor:
        if not torch.compiler.is_compiling() and not torch.is_grad_enabled() and type(self) is LSQActivation:
            fused_relu.note_reader(x, self)
        return super().forward(x, **options)

    @property
    def is_settled(self) -> bool:
        """True if no bit-width waits for data any more."""
        return not self.calibrating and all(level.ready for level in self.levels.values())

    def level_after_relu(self) -> Level | None:
        """At which a ReLU may quantize what it gives for this quantizer.

        None in mode 32, or where codes may be negative.
        """
        return None if self.active is None or self.active.quant_min < 0 else self.active

    def fake_quantize(self, x: Tensor, level: Level, in_product: bool = False) -> Tensor:
        low, high = level.bounds()
        done = None if torch.compiler.is_compiling() else fused_relu.done_at_once(x, level)
        grad_scale = self.grad_scale(x, level)
        return fake_quantize(x, level.scale, None, low, high, grad_scale, in_product, done=done)

    def product(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        level = self.active
        cheaper = torch.is_grad_enabled() and 4 * weight.numel() < x.numel()
        # two large sums that nearly cancel: rounded to bf16 or TF32 on their own, noise would be left
        precise = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if level is None or self.calibrating or not cheaper or not (x.is_cpu and precise):
            return self(x), weight
        # first: it may set the scale. Activation checkpointing, when it is set, must save what was saved here
        x_q = self(x, in_product=True)
        if not level.ready:  # nothing was quantized, or by a scale that is not kept
            return x_q, weight
        return x_q, weight_in_product(weight, level.scale, self.grad_scale(x, level))
