"""One layer or function of a traced network as the stages that compute the same."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantizable.nn.fused_relu import ReLU, ReLU6
from quantizable.nn.norms import scale_and_bias
from quantizable.quantizers import Quantizer, Unrounded
from quantizable.verify.curves import Curve
from quantizable.verify.pooling import MaxPool2d
from quantizable.verify.rearranging import Flatten, Pad, Slice
from quantizable.verify.stages import Activation, Conv2d, Linear, Scale, Stage

SUPPORTED = (
    "Linear, Conv2d (zero padding, any groups), BatchNorm1d/2d (also per mode), ReLU, ReLU6, Hardtanh, "
    "LeakyReLU, Sigmoid, Tanh, GELU, SiLU, Hardswish, Hardsigmoid, AvgPool2d (without padding), MaxPool2d "
    "(without dilation), AdaptiveAvgPool2d and AdaptiveMaxPool2d to a divisor of the image, mean over both "
    "image axes, slices with steps, zero padding, Flatten, Identity, Dropout, concatenation and the addition "
    "of two branches"
)
IGNORED = (nn.Identity, nn.Dropout, F.dropout, "contiguous")
FLATTEN = (nn.Flatten, torch.flatten, "flatten")
CLAMPS: dict[Any, Activation] = {
    **dict.fromkeys((nn.ReLU, ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"), Activation(low=0.0)),
    **dict.fromkeys((nn.ReLU6, ReLU6, F.relu6), Activation(low=0.0, high=6.0)),
}
CURVES: dict[Any, str] = {
    **dict.fromkeys((nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"), "sigmoid"),
    **dict.fromkeys((nn.Tanh, torch.tanh, F.tanh, "tanh", "tanh_"), "tanh"),
    **dict.fromkeys((nn.SiLU, F.silu), "silu"),
    **dict.fromkeys((nn.Hardswish, F.hardswish), "hardswish"),
    **dict.fromkeys((nn.Hardsigmoid, F.hardsigmoid), "hardsigmoid"),
}
# a function's options in the order in which they may be given without their names
OPTIONS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.flatten, "flatten"), ("start_dim", "end_dim")),
    **dict.fromkeys((torch.mean, "mean"), ("dim", "keepdim")),
    **dict.fromkeys((F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid), ("inplace",)),
    F.leaky_relu: ("negative_slope", "inplace"),
    F.dropout: ("p", "training", "inplace"),
    F.pad: ("pad", "mode", "value"),
    F.avg_pool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    F.max_pool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    **dict.fromkeys((F.adaptive_avg_pool2d, F.adaptive_max_pool2d), ("output_size",)),
    operator.getitem: ("index",),
}
# the function that a layer is, and the options that it holds
FUNCTION_OF: dict[type, tuple[Any, tuple[str, ...]]] = {
    nn.Flatten: (torch.flatten, ("start_dim", "end_dim")),
    nn.LeakyReLU: (F.leaky_relu, ("negative_slope",)),
    nn.GELU: (F.gelu, ("approximate",)),
    nn.AvgPool2d: (F.avg_pool2d, ("kernel_size", "stride", "padding", "ceil_mode", "divisor_override")),
    nn.MaxPool2d: (
        F.max_pool2d,
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d, ("output_size",)),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d, ("output_size", "return_indices")),
}


def simple_stages(layer: Any, options: dict[str, Any], shape: torch.Size, name: str) -> list[Stage]:
    """What a layer or function of one value does, as stages; none if it does nothing.

    Args:
        layer: a module, a function, or the name of a method.
        options: the function's arguments by name, without its value.
        shape: of the value, without the batch axis.

    Raises:
        ValueError: it is not supported.
    """
    kind = type(layer) if isinstance(layer, nn.Module) else layer
    if kind in FUNCTION_OF:
        kind, held = FUNCTION_OF[kind]
        options = {option: getattr(layer, option) for option in held}
    if kind is F.dropout and options.get("training", True):
        raise unsupported(f"{name}, which is random in evaluation too")
    if kind in IGNORED:
        return []
    if kind in CLAMPS:
        return [CLAMPS[kind]]
    if kind is nn.Hardtanh:
        return [Activation(low=float(layer.min_val), high=float(layer.max_val))]
    if kind in CURVES:
        return [Curve(CURVES[kind])]
    found = _by_options(kind, options, shape)
    if found is None:
        raise unsupported(name)
    return found


def _by_options(kind: Any, options: dict[str, Any], shape: torch.Size) -> list[Stage] | None:
    """Stages of a function that depends on its options; None if there are none for these."""
    if kind is F.leaky_relu:
        slope = float(options.get("negative_slope", 0.01))
        return [Curve("leaky_relu", slope)] if 0 <= slope <= 1 else None
    if kind is F.gelu:
        return [Curve("gelu_tanh" if options.get("approximate") == "tanh" else "gelu")]
    if kind in FLATTEN:
        if options not in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1}):
            return None
        return [Flatten()] if len(shape) > 1 else []
    if kind is operator.getitem:
        return _slice(options["index"], shape)
    if kind is F.pad:
        return _pad(options, shape)
    if len(shape) != 3:
        return None
    if kind in (F.avg_pool2d, F.max_pool2d):
        return _window(kind, options, shape)
    if kind in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d) and not options.get("return_indices"):
        return _adaptive(kind, options["output_size"], shape)
    if kind in (torch.mean, "mean") and _is_image_mean(options):
        pooled = average_pooling(shape, (shape[1], shape[2]), (1, 1))
        return [pooled] if options.get("keepdim") else [pooled, Flatten()]
    return None


def _adaptive(kind: Any, size: Any, shape: torch.Size) -> list[Stage] | None:
    """Pooling to a number of pixels that divides the image: windows side by side."""
    rows, columns = size if isinstance(size, tuple | list) else (size, size)
    if not isinstance(rows, int) or not isinstance(columns, int) or shape[1] % rows or shape[2] % columns:
        return None
    kernel = (shape[1] // rows, shape[2] // columns)
    if kind is F.adaptive_max_pool2d:
        return [MaxPool2d(kernel, kernel)]
    return [average_pooling(shape, kernel, kernel)]


def _window(kind: Any, options: dict[str, Any], shape: torch.Size) -> list[Stage] | None:
    """Pooling with a window, unless an option makes it another function."""
    kernel = _pair(options["kernel_size"])
    stride = _pair(options.get("stride") or kernel)
    padding = _pair(options.get("padding", 0))
    usual = {"ceil_mode": False, "divisor_override": None, "return_indices": False, "dilation": 1}
    if any(options.get(key, value) not in (value, (value, value)) for key, value in usual.items()):
        return None
    if kind is F.max_pool2d:
        return [MaxPool2d(kernel, stride, padding)]
    return [average_pooling(shape, kernel, stride)] if padding == (0, 0) else None


def _slice(index: Any, shape: torch.Size) -> list[Stage] | None:
    """``x[:, a:b:c, ...]``: slices only, the batch axis whole."""
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > len(shape) + 1 or parts[:1] != (slice(None),):
        return None
    ranges = []
    for part, size in zip((*parts[1:], *[slice(None)] * (len(shape) + 1 - len(parts))), shape, strict=True):
        if not isinstance(part, slice) or not all(isinstance(x, int | None) for x in _limits(part)):
            return None
        if part.step is not None and part.step < 1:
            return None
        ranges.append(part.indices(size))
    return [Slice(tuple(ranges))]


def _limits(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step


def _pad(options: dict[str, Any], shape: torch.Size) -> list[Stage] | None:
    amounts = options["pad"]
    if not isinstance(amounts, tuple | list) or not all(isinstance(a, int) and a >= 0 for a in amounts):
        return None
    zeros = options.get("mode", "constant") == "constant" and options.get("value") in (None, 0)
    return [Pad(tuple(amounts))] if zeros and len(amounts) <= 2 * len(shape) else None


def unsupported(name: str) -> ValueError:
    return ValueError(f"layer {name} cannot be verified; supported are {SUPPORTED}")


def quantizer_stage(quantizer: Quantizer, name: str) -> Activation:
    """The rounding and clamping of an activation quantizer at its active bit-width.

    Raises:
        ValueError: the quantizer was never calibrated, or has one scale per channel.
    """
    if quantizer.active is None:
        return Activation()
    if not quantizer.is_set(quantizer.bits):
        raise ValueError(
            f"the input quantizer of {name} was never calibrated, so its step size is not known; "
            "train the network or call network.calibrate(loader) first"
        )
    scale, zero_point, quant_min, quant_max = quantizer.qparams(torch.zeros(1))
    if scale.numel() != 1:
        raise ValueError(f"the input quantizer of {name} has a scale per channel; supported is one")
    step, zero = float(scale), float(zero_point)
    if isinstance(quantizer, Unrounded):
        return Activation(low=(quant_min - zero) * step, high=(quant_max - zero) * step)
    return Activation(step, (quant_min - zero) * step, (quant_max - zero) * step, True, zero)


def layer_stage(layer: nn.Module, weight: Tensor, name: str) -> Linear | Conv2d:
    """A linear or convolution layer with the given weight, in float64."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = weight.detach().double()
    bias = torch.zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach()
    if isinstance(layer, nn.Linear):
        return Linear(weight, bias.double())
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(
            f"layer {name} pads with {layer.padding_mode!r}, {layer.padding!r}; supported is zero "
            "padding by a number of pixels"
        )
    return Conv2d(
        weight,
        bias.double(),
        _pair(layer.stride),
        _pair(layer.padding),
        _pair(layer.dilation),
        layer.groups,
    )


def norm_stage(norm: nn.Module, axes: int) -> Scale:
    """Batch norm in evaluation: ``(x - mean) / sqrt(var + eps) * weight + bias``."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    factor, bias = scale_and_bias(norm)
    shape = (-1,) + (1,) * (axes - 1)
    beta = torch.zeros_like(bias) if norm.bias is None else norm.bias.detach().double()
    size = (bias - beta).abs() + beta.abs()  # of mean * factor and beta apart
    return Scale(factor.reshape(shape), bias.reshape(shape), size.reshape(shape))


def average_pooling(shape: torch.Size, kernel: tuple[int, int], stride: tuple[int, int]) -> Conv2d:
    """Average pooling as a convolution with constant weights, channel by channel."""
    channels = shape[0]
    weight = torch.full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=torch.float64)
    return Conv2d(weight, torch.zeros(channels, dtype=torch.float64), stride, groups=channels)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _is_image_mean(options: dict[str, Any]) -> bool:
    axes = options.get("dim")
    known = options.keys() <= {"dim", "keepdim"}
    return known and isinstance(axes, tuple | list) and tuple(axes) in ((2, 3), (-2, -1))
