"""The integer reference: what a network computes when its layers run on integers.

An executable specification, made to be read and compared against, not to be fast. A layer multiplies integer
codes by integer weights and sums them in int32. Its scale and bias, the batch norm folded in, turn the sum
into the value that residual additions, pooling, concatenation and activations work on, until the next layer's
grid turns that into codes again.

The tensors are float64, in which integers up to 2^53 are exact, so that torch's own convolutions do the
integer arithmetic; that every sum fits int32 is checked. With ``fixed_point`` the values between layers are
integers too, in units of 2^-20 (``fixed_point.py``), and no real multiplication is left in the layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantizable.deploy.fixed_point_multiplier import (
    FRACTION_BITS,
    fixed_multiplier,
    from_fixed,
    rescale,
    to_fixed,
)
from quantizable.deploy.integer_nodes import RangeNode
from quantizable.deploy.lowering import lower
from quantizable.deploy.real_zero_point import FixedWeight, adds_remainder
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn.additions import Additions
from quantizable.storage.integers import IntegerInput

POOLING = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


class Codes(nn.Module):
    """A layer's input as integers, its zero point subtracted, carried in float64.

    Args:
        grid: the layer's input grid.
        fixed_point: find the codes by an integer multiplication and a shift.
    """

    def __init__(self, grid: IntegerInput, fixed_point: bool) -> None:
        super().__init__()
        self.grid = grid
        self.fixed_point = fixed_point
        self.inverse = fixed_multiplier(1 / grid.scale.double() / (1 << FRACTION_BITS))

    def forward(self, x: Tensor) -> Tensor:
        if not self.fixed_point:
            return self.grid.codes(x.float()).double() - self.grid.zero_point
        real_zero_point = self.grid.zero_point + self.grid.remainder
        shifted = x + real_zero_point * self.grid.scale.double()
        codes = rescale(to_fixed(shifted), *self.inverse).clamp(self.grid.low, self.grid.high)
        return codes.double() - self.grid.zero_point


class Addend(Codes):
    """An operand of an addition on its grid: its code, and the value in which both operands are added."""

    def forward(self, x: Tensor) -> Tensor:
        value = super().forward(x) * self.grid.scale.double()
        return from_fixed(to_fixed(value)) if self.fixed_point else value


class Requantize:
    """A forward hook that turns a layer's integer sums into values: ``sum * scale + bias`` per channel.

    Args:
        scale: input step times weight step, norm folded in; float64, one per output channel or one in all.
        bias: float64, one per output channel, or None.
        channels_last: True for linear layers, whose channels are the last axis.
        fixed_point: multiply by an integer and shift, and round the value to 2^-20.
    """

    def __init__(self, scale: Tensor, bias: Tensor | None, channels_last: bool, fixed_point: bool) -> None:
        self.scale, self.bias = scale.flatten(), bias
        self.channels_last, self.fixed_point = channels_last, fixed_point
        self.multiplier = fixed_multiplier(self.scale * (1 << FRACTION_BITS))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], sums: Tensor) -> Tensor:
        fits_int32(sums)
        axes = sums.dim() - 2 if not self.channels_last else 0

        def along_channels(x: Tensor) -> Tensor:
            return x.reshape(-1, *[1] * axes) if x.numel() > 1 else x

        if self.fixed_point:
            m, shift = map(along_channels, self.multiplier)
            values = rescale(sums.to(torch.int64), m, shift)
            if self.bias is not None:
                values = values + to_fixed(along_channels(self.bias))
            return from_fixed(fits_int32(values))
        values = sums * along_channels(self.scale)
        return values if self.bias is None else values + along_channels(self.bias)


def fits_int32(integers: Tensor) -> Tensor:
    """The integers, or ``OverflowError`` if one does not fit int32."""
    largest = int(integers.abs().max())
    if largest >= 2**31:
        raise OverflowError(f"{largest} does not fit int32")
    return integers


def integer_network(
    network: QuantizableNetwork, bits: Assignment, example: Tensor, fixed_point: bool = False
) -> nn.Module:
    """The network at one mode, computed on integers; takes and gives float64.

    Convolutions and linear layers with quantized input and weight run on integers; what has no integer form
    (see ``layer_report``) runs in float64.

    Args:
        network: calibrated or trained.
        bits: a mode, or a mapping as ``set_bits`` takes it.
        example: one batch of inputs, ``[N, C, H, W]``.
        fixed_point: also requantize without real multiplications.

    Raises:
        ValueError: the network lacks the mode, or was never calibrated.
        OverflowError: when run, if a sum does not fit int32.
    """
    lowered = lower(network, bits, example)
    model = lowered.model.double()
    for name, weight in lowered.weights.items():
        layer, given = model.get_submodule(name), lowered.inputs.get(name)
        if given is None or not adds_remainder(layer):
            continue
        scale = given.grid.scale.double() * weight.scale
        bias = None if layer.bias is None else layer.bias.detach()  # type: ignore[operator]
        layer.bias = None  # type: ignore[assignment]
        layer.input_quantizer = Codes(given.grid, fixed_point)
        layer.weight_quantizer = FixedWeight(weight.integers.double())
        requantize = Requantize(scale, bias, isinstance(layer, nn.Linear), fixed_point)
        layer.register_forward_hook(requantize, prepend=True)
        if name in lowered.shares:
            lowered.shares[name].double()
    for name, additions in model.named_modules():
        for key in [*additions.operands] if isinstance(additions, Additions) else ():
            if given := lowered.inputs.get(f"{name}.{key}"):
                additions.operands[key] = Addend(given.grid, fixed_point)
            elif fixed_point and isinstance(clamp := additions.operands[key], RangeNode):
                limits = torch.tensor([clamp.low, clamp.high], dtype=torch.float64)
                clamp.low, clamp.high = from_fixed(to_fixed(limits)).tolist()
    if fixed_point:
        for module in model.modules():
            if isinstance(module, POOLING):
                module.register_forward_hook(lambda _module, _inputs, mean: from_fixed(to_fixed(mean)))
    return model
