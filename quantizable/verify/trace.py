"""From a network of this library (or a plain torch one) to the stages that are verified.

The network is traced with torch.fx, layers as leaves; quantizers become rounding stages, weights
the values their codes stand for, norms are folded. All modes of a network give graphs of one
structure (in mode 32 a quantizer is an identity stage), so any two can be compared.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from quantizable.bits import ModeLike
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantConv2d, QuantLayer, QuantLinear
from quantizable.nn.norms import PerModeNorm, is_plain, scale_and_bias
from quantizable.quantizers import Quantizer
from quantizable.verify.graph import Graph, Node, apply
from quantizable.verify.simplify import simplify
from quantizable.verify.stages import Activation, Add, Conv2d, Flatten, Linear, Scale, Stage

SUPPORTED = (
    "Linear, Conv2d (zero padding), BatchNorm1d/2d (also per mode), ReLU, ReLU6, Hardtanh, "
    "AvgPool2d (without padding), AdaptiveAvgPool2d(1), mean over both image axes, Flatten, "
    "Identity, Dropout and the addition of two branches"
)
RELU = (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")
IGNORED = (nn.Identity, nn.Dropout, F.dropout, "contiguous")
FLATTEN = (nn.Flatten, torch.flatten, "flatten")
ADDITION = (operator.add, operator.iadd, torch.add, "add", "add_")
# a function's options in the order in which they may be given without their names
OPTIONS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.flatten, "flatten"), ("start_dim", "end_dim")),
    **dict.fromkeys((torch.mean, "mean"), ("dim", "keepdim")),
    **dict.fromkeys((F.relu, F.relu6), ("inplace",)),
    F.dropout: ("p", "training", "inplace"),
}


class Value(fx.Proxy):
    """A traced tensor that knows ``x += y``, which torch.fx takes for ``x = x + y``."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class LayerTracer(fx.Tracer):
    """Stops at torch's layers and at ours, which :func:`graph_of` reads as a whole."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, QuantLayer | PerModeNorm | nn.modules.batchnorm._BatchNorm)
        return ours or super().is_leaf_module(m, module_qualified_name)


def graph_of(network: nn.Module, input_shape: Sequence[int], mode: ModeLike | None = None) -> Graph:
    """The stages of a network in one of its modes, in float64.

    Args:
        network: a :class:`~quantizable.QuantizableNetwork`, or a plain float ``nn.Module``.
        input_shape: shape of one input, without the batch axis.
        mode: the bit mode (a quantizable network only); None: the current one.

    Raises:
        ValueError: a mode the network lacks, a layer that is not supported (named, with what is),
            quantizers that were never calibrated, weights that are NaN or infinite, or an input shape
            that does not fit.
    """
    if isinstance(network, QuantizableNetwork):
        if mode is not None:
            with network.at_bits(network.check_mode(mode)):
                return graph_of(network, input_shape)
        network = network.model
    elif mode is not None:
        raise ValueError(
            f"mode {mode!r} was asked of a plain {type(network).__name__}, which has none; "
            "make it quantizable first (quantizable.quantize)"
        )
    training = network.training
    network.eval()
    try:
        traced = LayerTracer().trace(network)
    except Exception as error:  # fx raises whatever the traced code does
        raise ValueError(
            f"{type(network).__name__} cannot be traced ({error}); its forward must be free of "
            f"control flow on the data and made of: {SUPPORTED}"
        ) from error
    finally:
        network.train(training)
    return simplify(_Lowering(network, traced, torch.Size(input_shape)).graph())


class _Lowering:
    """Translates a traced network node by node."""

    def __init__(self, network: nn.Module, traced: fx.Graph, input_shape: torch.Size) -> None:
        self.modules = dict(network.named_modules())
        self.traced = traced
        self.nodes: list[Node] = []
        self.shapes: list[torch.Size] = [input_shape]
        self.input_shape = input_shape
        self.value: dict[fx.Node, int] = {}
        self.views: list[tuple[int, int]] = []  # values that share their memory

    @torch.no_grad()
    def graph(self) -> Graph:
        for node in self.traced.nodes:
            if node.op == "output":
                return self._up_to(node.args[0])
            if node.op == "call_module":
                self._module(node, self.modules[str(node.target)], str(node.target))
            elif node.op in ("call_function", "call_method"):
                self._function(node)
            elif node.op == "get_attr":
                raise unsupported(f"{node.target} (a tensor of the network, used directly)")
            elif self.value:
                raise ValueError("the network takes more than one input; supported is one")
            else:
                self.value[node] = 0
        raise ValueError("the network has no output")

    def _up_to(self, output: Any) -> Graph:
        """The graph that ends with the network's output; what comes later is not read."""
        if not isinstance(output, fx.Node):
            raise ValueError(
                f"the network returns a {type(output).__name__} of outputs; supported is one tensor (wrap "
                "the network in a module that returns the one to verify)"
            )
        return Graph(self.nodes[: self.value[output]], self.input_shape)

    def _emit(self, stage: Stage, *inputs: int) -> int:
        """Append a stage; returns the index of its value."""
        zeros = (torch.zeros(1, *self.shapes[i], dtype=torch.float64) for i in inputs)
        try:
            self.shapes.append(apply(stage, *zeros).shape[1:])
        except RuntimeError as error:
            raise ValueError(
                f"inputs of shape {tuple(self.input_shape)} do not fit the network ({error})"
            ) from error
        self.nodes.append(Node(stage, inputs))
        return len(self.nodes)

    def _module(self, node: fx.Node, module: nn.Module, name: str) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        x = self.value[source]
        if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
            raise ValueError(f"layer {name} has a forward hook, which is not verified; remove it first")
        if isinstance(module, PerModeNorm):
            module = module.active
        if isinstance(module, QuantConv2d | QuantLinear):
            x = self._emit(quantizer_stage(module.input_quantizer, name), x)
            x = self._emit(layer_stage(module, module.quantized_weight(), name), x)
        elif type(module) is nn.Conv2d or type(module) is nn.Linear:
            x = self._emit(layer_stage(module, module.weight, name), x)
        elif is_plain(module):
            x = self._emit(norm_stage(module, len(self.shapes[x])), x)
            # timm's norm holds the activation that follows it
            for inner in (getattr(module, "drop", None), getattr(module, "act", None)):
                if inner is not None:
                    x = self._simple(inner, {}, x, f"{name} ({type(inner).__name__})")
        else:
            x = self._simple(module, {}, x, f"{name} ({type(module).__name__})")
        self.value[node] = x
        if getattr(module, "inplace", False):
            self._write_through(node, source)

    def _function(self, node: fx.Node) -> None:
        name = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
        sources = [a for a in node.args if isinstance(a, fx.Node)]
        names = OPTIONS.get(node.target, ())
        if node.target in ADDITION and len(sources) == 2 and not node.kwargs:
            self.value[node] = self._emit(Add(), *(self.value[source] for source in sources))
        elif len(sources) == len(node.all_input_nodes) == 1 and len(node.args) <= 1 + len(names):
            options = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
            self.value[node] = self._simple(node.target, options, self.value[sources[0]], name)
        else:
            raise unsupported(name)
        if node.target is operator.iadd or name.endswith("_)") or node.kwargs.get("inplace"):
            self._write_through(node, sources[0])

    def _write_through(self, node: fx.Node, changed: fx.Node) -> None:
        """Let every name of a tensor mean its new value, after ``node`` changed it in place."""
        old, new = self.value[changed], self.value[node]
        views = {i for pair in self.views if old in pair for i in pair} - {old}
        seen = False
        for later in self.traced.nodes:
            if seen and any(self.value.get(read) in views for read in later.all_input_nodes):
                raise ValueError(f"{node.name} changes in place what {later.name} reads through a view")
            seen = seen or later is node
        for name, value in self.value.items():
            if value == old:
                self.value[name] = new

    def _flatten(self, x: int) -> int:
        view = self._emit(Flatten(), x)
        self.views.append((x, view))
        return view

    def _simple(self, layer: Any, options: dict[str, Any], x: int, name: str) -> int:
        """A layer or function of one value and plain options."""
        kind = type(layer) if isinstance(layer, nn.Module) else layer
        shape = self.shapes[x]
        if kind is F.dropout and options.get("training", True):
            raise unsupported(f"{name}, which is random in evaluation too")
        if kind in IGNORED:
            return x
        if kind in RELU:
            return self._emit(Activation(low=0.0), x)
        if kind in (nn.ReLU6, F.relu6):
            return self._emit(Activation(low=0.0, high=6.0), x)
        if kind is nn.Hardtanh:
            return self._emit(Activation(low=float(layer.min_val), high=float(layer.max_val)), x)
        if isinstance(layer, nn.Flatten):
            options = {"start_dim": layer.start_dim, "end_dim": layer.end_dim}
        if kind in FLATTEN and options in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1}):
            return self._flatten(x) if len(shape) > 1 else x
        whole = kind is nn.AvgPool2d and layer.padding in (0, (0, 0)) and not layer.ceil_mode
        if whole and layer.divisor_override is None:
            stride = layer.kernel_size if layer.stride is None else layer.stride
            return self._emit(pooling(shape, _pair(layer.kernel_size), _pair(stride)), x)
        if kind is nn.AdaptiveAvgPool2d and layer.output_size in (1, (1, 1)):
            return self._emit(pooling(shape, (shape[1], shape[2]), (1, 1)), x)
        if kind in (torch.mean, "mean") and len(shape) == 3 and _is_image_mean(options):
            x = self._emit(pooling(shape, (shape[1], shape[2]), (1, 1)), x)
            return x if options.get("keepdim") else self._emit(Flatten(), x)
        raise unsupported(name)


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
    return Scale(factor.reshape(shape), bias.reshape(shape))


def pooling(shape: torch.Size, kernel: tuple[int, int], stride: tuple[int, int]) -> Conv2d:
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
