"""From a network of this library (or a plain torch one) to the stages that are verified.

The network is traced with torch.fx, layers as leaves; quantizers become rounding stages, weights
the values their codes stand for, norms are folded. All modes of a network give graphs of one
structure (in mode 32 a quantizer is an identity stage), so any two can be compared.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from quantizable.bits import ModeLike
from quantizable.network import QuantizableNetwork
from quantizable.nn.fused_relu import FusedActivation
from quantizable.nn.layers import QuantConv2d, QuantLayer, QuantLinear
from quantizable.nn.norms import PerModeNorm, is_plain
from quantizable.quantizers import Quantizer
from quantizable.storage.integers import is_quantized
from quantizable.verify.graph import Graph, Node, apply
from quantizable.verify.layers import (
    OPTIONS,
    SUPPORTED,
    layer_stage,
    norm_stage,
    quantizer_stage,
    simple_stages,
    unsupported,
)
from quantizable.verify.rearranging import Concat, Flatten, Slice
from quantizable.verify.simplify import simplify
from quantizable.verify.stages import Add, Stage

ADDITION = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATION = (torch.cat, torch.concat)


class Value(fx.Proxy):
    """A traced tensor that knows ``x += y``, which torch.fx takes for ``x = x + y``."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class LayerTracer(fx.Tracer):
    """Stops at torch's layers and at ours, which :func:`graph_of` reads as a whole."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = QuantLayer | Quantizer | PerModeNorm | FusedActivation | nn.modules.batchnorm._BatchNorm
        return isinstance(m, ours) or super().is_leaf_module(m, module_qualified_name)


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
        if isinstance(module, Quantizer):  # of an operand of an addition
            x = self._emit(quantizer_stage(module, name), x)
        elif isinstance(module, QuantConv2d | QuantLinear):
            x = self._emit(quantizer_stage(module.input_quantizer, name), x)
            stage = layer_stage(module, module.quantized_weight(), name)
            codes = is_quantized(module.weight_quantizer)
            x = self._emit(replace(stage, codes=codes), x)
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
        elif node.target in CONCATENATION:
            self.value[node] = self._concatenate(node, name)
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
        views = self._views_of(old)
        seen = False
        for later in self.traced.nodes:
            if seen and any(self.value.get(read) in views for read in later.all_input_nodes):
                raise ValueError(f"{node.name} changes in place what {later.name} reads through a view")
            seen = seen or later is node
        for name, value in self.value.items():
            if value == old:
                self.value[name] = new

    def _views_of(self, value: int) -> set[int]:
        """The other values that share its memory, views of views too."""
        found, before = {value}, 0
        while len(found) > before:
            before = len(found)
            found |= {i for pair in self.views if found & set(pair) for i in pair}
        return found - {value}

    def _simple(self, layer: Any, options: dict[str, Any], x: int, name: str) -> int:
        """A layer or function of one value and plain options."""
        for stage in simple_stages(layer, options, self.shapes[x], name):
            before, x = x, self._emit(stage, x)
            if isinstance(stage, Flatten | Slice):
                self.views.append((before, x))
        return x

    def _concatenate(self, node: fx.Node, name: str) -> int:
        options = {**dict(zip(("tensors", "dim"), node.args, strict=False)), **node.kwargs}
        parts, dim = options.get("tensors"), options.get("dim", 0)
        if not isinstance(parts, list | tuple) or not isinstance(dim, int):
            raise unsupported(name)
        values = [self.value[part] for part in parts if isinstance(part, fx.Node)]
        axis = dim % (len(self.shapes[values[0]]) + 1)
        if len(values) < len(parts) or axis == 0:
            raise unsupported(name)
        return self._emit(Concat(axis - 1), *values)
