"""Float layers that quantize their input and their weight: same class family, same parameter names.

A layer is turned into its quantized class in place (``__class__``), so that hooks, names, padding and
everything else the float layer carries stay; :func:`to_float` turns it back. Each forward is the float
layer's with ``x`` and ``weight`` passed through a quantizer, which is the identity in mode 32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers import Linear as TimmLinear
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.nn.recomputation import Recomputable
from quantizable.quantizers import Quantizer
from quantizable.quantizers.level import Level


class KeptWeight(NamedTuple):
    """A weight that was quantized before.

    Attributes:
        weight: the values of its codes, of the layer's shape and unit; a leaf of the graph.
        level: at which it was quantized.
    """

    weight: Tensor
    level: Level | None


class QuantLayer(Recomputable):
    """What every quantized layer has beside its float class.

    Attributes:
        float_class: the class whose forward it replaces.
        original_class: the class that the layer had, ``float_class`` or a subclass.
        input_quantizer: quantizes the input.
        weight_quantizer: quantizes the weight.
        fixed_bits: None: the layer follows the network's mode; 8, say: it stays at 8 bits in every
            quantized mode (first and last layer).
        kept_weight: what stands for the quantized weight while its level is active; None: nothing.
    """

    float_class: type[nn.Module]
    original_class: type[nn.Module]
    weight: Tensor
    input_quantizer: Quantizer
    weight_quantizer: Quantizer
    fixed_bits: int | None
    kept_weight: KeptWeight | None = None

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """True if this class can stand in for ``layer``, an instance of its ``float_class``."""
        return True

    def resolve(self, mode: BitMode) -> BitMode:
        """The mode that this layer runs in when the network is asked for ``mode``."""
        if self.fixed_bits is None:
            return mode
        return BitMode(*(b if b == FLOAT_BITS else self.fixed_bits for b in (mode.weight, mode.activation)))

    def check(self, mode: BitMode) -> None:
        """``ValueError`` if one of the quantizers lacks the bit-width that ``mode`` asks for."""
        mode = self.resolve(mode)
        self.weight_quantizer.check(mode.weight)
        self.input_quantizer.check(mode.activation)

    def check_widths(self, mode: BitMode) -> None:
        """``ValueError`` if :meth:`add_widths` cannot add what ``mode`` asks for."""
        mode = self.resolve(mode)
        for quantizer, bits in (
            (self.weight_quantizer, mode.weight),
            (self.input_quantizer, mode.activation),
        ):
            if isinstance(quantizer, Quantizer):
                quantizer.check_width(bits)
            else:  # what was stored as integers has no more than these
                quantizer.check(bits)

    def add_widths(self, mode: BitMode) -> None:
        """Hold the bit-widths that ``mode`` asks for."""
        mode = self.resolve(mode)
        if isinstance(self.weight_quantizer, Quantizer):
            self.weight_quantizer.add_width(mode.weight, self.float_weight())
            self.input_quantizer.add_width(mode.activation)

    def set_bits(self, mode: BitMode) -> None:
        """Switch the layer; ``ValueError`` if one of its quantizers lacks the bit-width."""
        mode = self.resolve(mode)
        self.weight_quantizer.set_bits(mode.weight)
        self.input_quantizer.set_bits(mode.activation)

    @property
    def bits(self) -> BitMode:
        """The mode that the layer is in."""
        return BitMode(self.weight_quantizer.bits, self.input_quantizer.bits)

    def quantized_weight(self) -> Tensor:
        """The weight as the matrix product sees it, shape of ``weight``."""
        kept = None if torch.compiler.is_compiling() else self.kept_weight
        if kept is not None and kept.level is self.weight_quantizer.active:
            return kept.weight
        return self.weight_quantizer(self.float_weight())

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as the matrix product sees them, shapes of ``x`` and ``weight``."""
        self.recomputing()
        weight = self.quantized_weight()
        if isinstance(self.input_quantizer, Quantizer):
            return self.input_quantizer.product(x, weight)
        return self.input_quantizer(x), weight  # any module may stand in a quantizer's place

    def float_weight(self) -> Tensor:
        """The weight before quantization (standardized, where the layer does that)."""
        return self.weight


class QuantLinear(QuantLayer, nn.Linear):
    """``nn.Linear`` on quantized input and weight."""

    float_class = nn.Linear

    def forward(self, input: Tensor, *bias: Tensor | None) -> Tensor:
        """As the float layer's; ``bias``: another, or None, of a module that reads the weight past it."""
        return F.linear(*self.factors(input), *(bias or (self.bias,)))


class QuantConv1d(QuantLayer, nn.Conv1d):
    """``nn.Conv1d`` on quantized input and weight."""

    float_class = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(*self.factors(input), self.bias)


class QuantConv2d(QuantLayer, nn.Conv2d):
    """``nn.Conv2d`` (also grouped, depthwise, dilated) on quantized input and weight."""

    float_class = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(*self.factors(input), self.bias)


class QuantConv3d(QuantLayer, nn.Conv3d):
    """``nn.Conv3d`` on quantized input and weight."""

    float_class = nn.Conv3d

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(*self.factors(input), self.bias)


class QuantBilinear(QuantLayer, nn.Bilinear):
    """``nn.Bilinear`` on quantized weight and first input; what the second multiplies is an activation."""

    float_class = nn.Bilinear

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        x, weight = self.factors(input1)
        return F.bilinear(x, input2, weight, self.bias)


class _QuantConvTranspose(QuantLayer, _ConvTransposeNd):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        functional = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
        n = len(self.kernel_size)
        stride, padding, dilation = list(self.stride), [*map(int, self.padding)], list(self.dilation)
        output_padding = self._output_padding(
            input, output_size, stride, padding, list(self.kernel_size), n, dilation
        )
        return functional[n](
            *self.factors(input), self.bias,
            stride, padding, output_padding, self.groups, dilation,
        )  # fmt: skip


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` on quantized input and weight."""

    float_class = nn.ConvTranspose1d


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` on quantized input and weight."""

    float_class = nn.ConvTranspose2d


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` on quantized input and weight."""

    float_class = nn.ConvTranspose3d


class QuantConv2dSame(QuantLayer, Conv2dSame):
    """timm's ``Conv2dSame`` (TensorFlow padding); zeros are padded after the input is quantized."""

    float_class = Conv2dSame

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.factors(x)
        x = same_padded(x, self)
        return F.conv2d(x, weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)


def same_padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``x`` with the zeros that TensorFlow's "same" padding puts around it."""
    return pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation))


class _QuantStdConv(QuantLayer, nn.Conv2d):
    """timm's weight-standardized convolutions: the standardized weight is what gets quantized."""

    eps: float
    gain: nn.Parameter  # of the scaled ones only, as `scale`
    scale: float

    def float_weight(self) -> Tensor:
        weight = self.weight
        gain = (self.gain * self.scale).view(-1) if hasattr(self, "gain") else None
        standardised = F.batch_norm(
            weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=gain,
            training=True,
            momentum=0.0,
            eps=self.eps,
        )
        return standardised.reshape_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.factors(x)
        if getattr(self, "same_pad", False):
            x = same_padded(x, self)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class QuantStdConv2d(_QuantStdConv, StdConv2d):
    """timm's ``StdConv2d`` on quantized input and standardized weight."""

    float_class = StdConv2d


class QuantStdConv2dSame(_QuantStdConv, StdConv2dSame):
    """timm's ``StdConv2dSame`` on quantized input and standardized weight."""

    float_class = StdConv2dSame


class QuantScaledStdConv2d(_QuantStdConv, ScaledStdConv2d):
    """timm's ``ScaledStdConv2d`` on quantized input and standardized weight."""

    float_class = ScaledStdConv2d


class QuantScaledStdConv2dSame(_QuantStdConv, ScaledStdConv2dSame):
    """timm's ``ScaledStdConv2dSame`` on quantized input and standardized weight."""

    float_class = ScaledStdConv2dSame


QUANT_CLASSES: dict[type[nn.Module], type[QuantLayer]] = {
    quant.float_class: quant
    for quant in (
        QuantLinear, QuantBilinear, QuantConv1d, QuantConv2d, QuantConv3d,
        QuantConvTranspose1d, QuantConvTranspose2d, QuantConvTranspose3d, QuantConv2dSame,
        QuantStdConv2d, QuantStdConv2dSame, QuantScaledStdConv2d, QuantScaledStdConv2dSame,
    )
}  # fmt: skip
QUANT_CLASSES[TimmLinear] = QuantLinear  # its forward differs under TorchScript only


def quantized_inside(module: nn.Module) -> list[QuantLayer]:
    """The quantized layers of a module, found without a look into quantizers.

    A compiled graph would else hold on to the level that is active, and every mode would cost one.
    """
    found = [module] if isinstance(module, QuantLayer) else []
    for child in module._modules.values():
        if child is not None and not isinstance(child, Quantizer):
            found += quantized_inside(child)
    return found


def all_float(module: nn.Module) -> bool:
    """True if all quantized layers inside are the identity just now: mode 32, and no calibration."""
    layers = quantized_inside(module)
    for layer in layers:
        layer.recomputing()
    return all(
        # another module in a quantizer's place is never taken for the identity
        isinstance(quantizer, Quantizer) and quantizer.active is None and not quantizer.calibrating
        for layer in layers
        for quantizer in (layer.input_quantizer, layer.weight_quantizer)
    )
