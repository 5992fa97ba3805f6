"""Batch norms folded into the scale and bias of the layer before them, mode by mode.

Decided on the traced graph, never on the modules: a module may be called in several places, and what is
folded into it changes it in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from quantizable.deploy.integer_nodes import WeightNode
from quantizable.nn.module_names import replace_module
from quantizable.nn.network_inputs import Inputs
from quantizable.nn.norms import is_plain, scale_and_bias

LINEAR_OPS = {
    torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default,
    torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding, torch.ops.aten.conv3d.padding,
    torch.ops.aten.linear.default,
}  # fmt: skip
LINEAR, FLATTEN = torch.ops.aten.linear.default, torch.ops.aten.flatten.using_ints
RESHAPE_AS = torch.ops.aten.reshape_as.default
NORM_OPS = {torch.ops.aten.batch_norm.default}
NOT_BEHIND = "is not behind a quantized layer"
NOT_ALONE = "stays a norm: the layer before it, or the norm itself, is also used elsewhere"

Calls = dict[nn.Module, list[fx.Node]]


def module_of(node: fx.Node) -> str:
    """Dotted name of the module whose forward made a node of an exported graph."""
    stack = list(node.meta["nn_module_stack"].values())
    return stack[-1][0]


def calls_of(model: nn.Module, graph: fx.Graph) -> Calls:
    """Every matrix product and every batch norm of a graph, by the module that made it."""
    modules = dict(model.named_modules(remove_duplicate=False))  # a module may have several names
    calls: Calls = defaultdict(list)
    for node in graph.nodes:
        if node.target in LINEAR_OPS | NORM_OPS:
            calls[modules[module_of(node)]].append(node)
    return calls


def product_before(call: fx.Node) -> fx.Node | None:
    """The matrix product whose output channels a batch norm normalizes, or None.

    LeViT's norms flatten the tokens of a linear layer first, ``[B, N, C]`` to ``[B * N, C]``.
    """
    source = call.args[0]
    assert isinstance(source, fx.Node)
    if source.target is FLATTEN and source.args[1:] == (0, 1):
        tokens = source.args[0]
        assert isinstance(tokens, fx.Node)
        return tokens if tokens.target is LINEAR and tokens.meta["val"].dim() == 3 else None
    # a norm behind a linear layer's [B, N, C] is one of the tokens
    fits = source.target in LINEAR_OPS and (source.target is not LINEAR or source.meta["val"].dim() == 2)
    return source if fits else None


def read_alone(product: fx.Node, call: fx.Node) -> bool:
    """True if the norm is all that reads the values of a product (a reshape may read its shape)."""
    values = [user for user in product.users if user.target is not RESHAPE_AS or user.args[0] is product]
    return values == [call] or (values == [call.args[0]] and len(values[0].users) == 1)


def layer_before(norm: nn.Module, calls: Calls) -> nn.Module | None:
    """The layer that a norm always follows, if the norm reads all its outputs and nothing else; else None."""
    products = [product_before(call) for call in calls[norm]]
    layers = [layer for layer in calls if set(calls[layer]) & set(products)]
    # one to one: each output of the layer has one reader (no skip), and each is a call of the norm
    if len(layers) != 1 or len(products) != len(calls[layers[0]]):
        return None
    if not all(
        product and read_alone(product, call) for product, call in zip(products, calls[norm], strict=True)
    ):
        return None
    parameters = [tensor for call in calls[norm] for tensor in call.args[1:5]]
    parameters += [tensor for call in calls[layers[0]] for tensor in call.args[2:3]]  # the bias
    return None if _read_directly(parameters, calls) else layers[0]


def _read_directly(tensors: list[Any], calls: Calls) -> bool:
    """True if something else than a layer or a norm of the network reads one of these parameters."""
    known = {
        node for module, nodes in calls.items() if isinstance(module, _BatchNorm | nn.Linear | _ConvNd)
        for node in nodes
    }  # fmt: skip
    return any(isinstance(tensor, fx.Node) and not set(tensor.users) <= known for tensor in tensors)


def without_norm(norm: nn.Module) -> nn.Module:
    """What is left of a folded norm: timm's have dropout and activation inside."""
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def fold_norms(
    model: nn.Module, inputs: Inputs, weights: dict[str, WeightNode]
) -> tuple[list[str], dict[str, str]]:
    """Fold each batch norm into the quantized layer in front of it, where neither is used otherwise.

    Args:
        model: a lowered network in evaluation mode.
        inputs: of one forward pass, for tracing.
        weights: weight nodes by layer name; other layers are left alone.

    Returns:
        names of the folded norms, and of those that stay, with the reason.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return [], {}
    calls = calls_of(model, traced(model, inputs))
    norms = {module: name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    quantized = {model.get_submodule(name): node for name, node in weights.items()}
    folded: list[str] = []
    kept: dict[str, str] = {}
    for norm, name in norms.items():
        behind = any(product_before(call) for call in calls.get(norm, []))
        layer = layer_before(norm, calls) if behind else None
        if not behind or (layer is not None and layer not in quantized) or norm.running_var is None:
            kept[name] = NOT_BEHIND
        elif not is_plain(norm):
            kept[name] = "has a forward of its own"
        elif layer is None or norm._forward_hooks or norm._forward_pre_hooks:
            kept[name] = NOT_ALONE
        else:
            _fold(norm, layer, quantized[layer])
            replace_module(model, norm, without_norm(norm))
            folded.append(name)
    return folded, kept


def traced(model: nn.Module, inputs: Inputs) -> fx.Graph:
    """The operations of one forward pass."""
    return torch.export.export(model, inputs.args, inputs.kwargs, strict=False).graph


def _fold(norm: _BatchNorm, layer: nn.Module, weight: WeightNode) -> None:
    """Multiply a layer's scales and move its bias as a norm does, in place."""
    scale, bias = scale_and_bias(norm)
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double() * scale  # type: ignore[operator]
    layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    weight.multiply(scale)
