"""Batch norms folded into the scale and bias of the layer before them, mode by mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizable.deploy.integer_nodes import WeightNode

LINEAR_OPS = {
    torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default,
    torch.ops.aten.conv2d.padding, torch.ops.aten.linear.default,
}  # fmt: skip
NORM_OPS = {torch.ops.aten.batch_norm.default}


def module_of(node: fx.Node) -> str:
    """Dotted name of the module whose forward made a node of an exported graph."""
    stack = list(node.meta["nn_module_stack"].values())
    return stack[-1][0]


def norms_behind(graph: fx.Graph) -> dict[str, str]:
    """Layer name to the name of the batch norm that alone reads its output."""
    pairs = {}
    for node in graph.nodes:
        if node.target in NORM_OPS:
            source = node.args[0]
            # an output that is read elsewhere too (a skip) must stay as it is
            if source.target in LINEAR_OPS and len(source.users) == 1:
                pairs[module_of(source)] = module_of(node)
    return pairs


def scale_and_bias(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` (float64, one per channel) of ``norm(x) = a x + b`` in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = -norm.running_mean.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.detach().double()
    return scale, bias


def without_norm(norm: nn.Module) -> nn.Module:
    """What is left of a folded norm: timm's have dropout and activation inside."""
    rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    rest = [module for module in rest if not isinstance(module, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def fold_norms(model: nn.Module, example: tuple[Any, ...], weights: dict[str, WeightNode]) -> list[str]:
    """Fold each batch norm into the quantized layer in front of it, in place; the folded norms' names.

    Args:
        model: a lowered network in evaluation mode.
        example: the inputs of one forward pass, for tracing.
        weights: weight nodes by layer name; other layers are left alone.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return []
    graph = torch.export.export(model, example, strict=False).graph
    folded = []
    for layer_name, norm_name in norms_behind(graph).items():
        norm = model.get_submodule(norm_name)
        if layer_name not in weights or not isinstance(norm, _BatchNorm) or norm.running_var is None:
            continue
        layer = model.get_submodule(layer_name)
        scale, bias = scale_and_bias(norm)
        if layer.bias is not None:
            bias = bias + layer.bias.detach().double() * scale  # type: ignore[operator]
        layer.bias = nn.Parameter(bias.float(), requires_grad=False)
        weights[layer_name].multiply(scale)
        model.set_submodule(norm_name, without_norm(norm))
        folded.append(norm_name)
    return folded
