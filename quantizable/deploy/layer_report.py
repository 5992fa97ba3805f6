"""How each layer of a lowered network runs: as integers, or in float and why."""

from __future__ import annotations

import numpy as np
from timm.layers import Attention
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from quantizable.deploy.integer_nodes import InputNode, RangeNode, WeightNode
from quantizable.deploy.lowering import Lowered
from quantizable.deploy.real_zero_point import RemainderShare, adds_remainder
from quantizable.deploy.saturation import can_saturate
from quantizable.nn import QuantLayer
from quantizable.nn.additions import INPUT, Additions
from quantizable.nn.operands import QuantOperands
from quantizable.nn.recurrent import Recurrent
from quantizable.nn.recurrent_products import Product
from quantizable.quantizers import Quantizer

WITHOUT_VNNI = ", float without VNNI"  # where its integers could saturate, see deploy/saturation.py
# these pass codes on, or are folded into the requantization of the layer before
TRANSPARENT = {
    "Identity", "Dropout", "DropPath", "Flatten", "ReLU", "ReLU6", "Hardtanh", "MaxPool2d", "AvgPool2d",
    "AdaptiveAvgPool2d", "SelectAdaptivePool2d", "FastAdaptiveAvgPool", "BlurPool2d", "PatchDropout",
}  # fmt: skip


def layer_report(lowered: Lowered) -> dict[str, str]:
    """``"integer w4a4"`` or ``"float: why"`` by layer name, in the network's order."""
    report = {}
    own = {
        part
        for module in lowered.model.modules()
        if isinstance(module, Quantizer)
        for part in module.modules()
    }
    for name, module in lowered.model.named_modules():
        if module in own:  # a quantizer that passes everything on, as in mode 32
            continue
        if name in lowered.unused and (_is_leaf(module) or isinstance(module, QuantLayer)):
            if isinstance(module, nn.Linear | _ConvNd | _BatchNorm | Product):
                report[name] = "float: evaluation never calls it"
        elif isinstance(module, QuantLayer):
            report[name] = _runs(lowered, name, module)
        elif isinstance(module, Additions):
            report[name] = _adds(lowered, name)
        elif isinstance(module, QuantOperands):
            first = next(iter(module.operands))
            report[name] = "integer products" if f"{name}.{first}" in lowered.inputs else "float: mode 32"
        elif isinstance(module, Attention):
            report[name] = "float: attention products and softmax"
        elif isinstance(module, _BatchNorm):
            report[name] = f"float: {type(module).__name__} {lowered.kept[name]}"
        elif isinstance(module, Recurrent):
            report[name] = "float: gates and states, between the products"
        elif isinstance(module, nn.Linear | _ConvNd | Product):
            report[name] = "float: left out of quantization"
        elif _is_leaf(module) and type(module).__name__ not in TRANSPARENT:
            report[name] = f"float: {type(module).__name__} has no integer form here"
    if any(_codes_can_saturate(lowered, name) for name in report):  # then no layer is left to the kernels
        report = {
            name: how + WITHOUT_VNNI if how.startswith("integer") and not how.endswith(WITHOUT_VNNI) else how
            for name, how in report.items()
        }
    return report


def _codes_can_saturate(lowered: Lowered, name: str) -> bool:
    """True for products of codes with codes that can leave int16."""
    part = lowered.model.get_submodule(name)
    if not isinstance(part, QuantOperands):
        return False
    nodes = [lowered.inputs.get(f"{name}.{operand}") for operand in part.operands]  # left, right, left, ...
    pairs = zip(nodes[::2], nodes[1::2], strict=True)
    return any(
        can_saturate(np.full((1, 2), right.highest_code), left.highest_code)
        for left, right in pairs
        if left is not None and right is not None
    )


def _adds(lowered: Lowered, name: str) -> str:
    given = lowered.inputs.get(f"{name}.{INPUT}")
    return "float: mode 32" if given is None else f"integer a{given.grid.bits}"


def _runs(lowered: Lowered, name: str, layer: QuantLayer) -> str:
    weight, given = lowered.weights.get(name), lowered.inputs.get(name)
    if weight is None and given is None:
        return "float: mode 32"
    if weight is None or given is None:
        return "float: only its weight is quantized" if weight else "float: its weight is not quantized"
    if not weight.fits_int8:
        return f"float: its {weight.bits}-bit weights have no zero level and need {weight.width} as integers"
    if given.grid.remainder and not adds_remainder(layer):
        return "float: the zero point of its input is not an integer"
    runs = f"integer w{weight.bits}a{given.grid.bits}"
    return runs + WITHOUT_VNNI if can_saturate(weight.channels_first(), given.highest_code) else runs


def _is_leaf(module: nn.Module) -> bool:
    own = InputNode | RangeNode | WeightNode | RemainderShare
    return not list(module.children()) and not isinstance(
        module, own | nn.ModuleList | nn.Sequential | nn.ModuleDict
    )
