"""A network at one bit mode as deployment sees it: integers in place of quantizers, norms folded away.

The copy keeps the float network's modules and forward passes; only its quantizers are replaced by nodes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from quantizable.calibrate import check_calibrated
from quantizable.deploy.integer_nodes import InputNode, RangeNode, WeightNode
from quantizable.deploy.norm_folding import fold_norms
from quantizable.deploy.real_zero_point import RemainderShare, share_remainder
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn import PerModeNorm, QuantLayer
from quantizable.nn.conversion import check_weights
from quantizable.nn.layer_calls import layer_calls
from quantizable.nn.module_names import replace_module
from quantizable.nn.network_inputs import network_inputs
from quantizable.nn.operands import Operands
from quantizable.nn.own_forward import has_inputs_first
from quantizable.quantizers import Unrounded
from quantizable.storage.integers import integer_input, integer_weight, is_quantized
from quantizable.storage.outputs import INPUT, OUTPUT, Structure, structure_of


@dataclass
class Lowered:
    """A network at one mode, ready to be exported or to run as integers.

    Attributes:
        model: a plain module in evaluation mode; its quantizers are nodes.
        inputs: the nodes of the quantized inputs, by layer name.
        weights: the nodes of the quantized weights, by layer name.
        folded: names of the norms that went into the layer before them.
        kept: the other batch norms by name, and why each stays one.
        unused: names of the modules that evaluation never calls, as the heads of training alone.
        outputs: names and structure of what it returns.
        shares: by layer name, what a real zero point of its input adds to its output.
    """

    model: nn.Module
    inputs: dict[str, InputNode] = field(default_factory=dict)
    weights: dict[str, WeightNode] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    outputs: Structure = OUTPUT
    shares: dict[str, RemainderShare] = field(default_factory=dict)


def lower(
    network: QuantizableNetwork, bits: Assignment, example: Any, share_remainders: bool = True
) -> Lowered:
    """The network at one mode, with integers for quantizers and norms folded where a layer feeds one.

    Args:
        network: calibrated or trained; it is left as it is.
        bits: a mode, or a mapping from layer patterns to modes, as ``set_bits`` takes it.
        example: one batch of inputs, as ``calibrate`` reads them, for tracing.
        share_remainders: move what a real zero point (LSQ+) adds behind the layers, for integer kernels.

    Raises:
        ValueError: the network lacks the mode, its activations were never calibrated, or it returns something
            else than tensors, tuples, lists and dictionaries.
    """
    check_weights(network.model)
    with network.at_bits(bits):
        lowered = Lowered(copy.deepcopy(network.model).cpu().eval().requires_grad_(False))
    model = lowered.model
    inputs = network_inputs(model, example)
    modules = dict(model.named_modules())
    lowered.unused = {name for name, calls in layer_calls(model, modules, inputs).items() if not calls}
    check_calibrated(model, lowered.unused)
    for name, module in modules.items():
        if isinstance(module, PerModeNorm):
            for when in ("_forward_hooks", "_forward_pre_hooks"):  # what a user hung on the norm
                for hooks in (when, f"{when}_with_kwargs"):
                    getattr(module.active, hooks).update(getattr(module, hooks))
            replace_module(model, module, module.active)
        elif name in lowered.unused:
            continue
        elif isinstance(module, QuantLayer):
            _lower_layer(lowered, name, module)
        elif isinstance(module, Operands):
            _lower_operands(lowered, name, module)
    with torch.no_grad():
        lowered.outputs = structure_of(inputs(model), inputs.kwargs or (INPUT,))
    lowered.folded, lowered.kept = fold_norms(model, inputs, lowered.weights)
    for name, weight in lowered.weights.items():
        if share_remainders and name in lowered.inputs:
            share = share_remainder(model.get_submodule(name), lowered.inputs[name], weight)
            if share is not None:
                lowered.shares[name] = share
    return lowered


def _lower_layer(lowered: Lowered, name: str, layer: QuantLayer) -> None:
    weight, given = layer.weight_quantizer, layer.input_quantizer
    if is_quantized(weight):
        with torch.no_grad():
            integers = integer_weight(weight, layer.float_weight(), weight.bits)
        axis = 1 if isinstance(layer, _ConvTransposeNd) or has_inputs_first(layer) else 0
        lowered.weights[name] = layer.weight_quantizer = WeightNode(integers, axis, name)  # type: ignore[assignment]
    if is_quantized(given):
        lowered.inputs[name] = layer.input_quantizer = InputNode(integer_input(given, given.bits), name)  # type: ignore[assignment]


def _lower_operands(lowered: Lowered, name: str, block: Operands) -> None:
    for operand, quantizer in list(block.operands.items()):
        if is_quantized(quantizer):  # type: ignore[arg-type]
            key = f"{name}.{operand}"
            if isinstance(quantizer, Unrounded):
                block.operands[operand] = RangeNode(integer_input(quantizer, quantizer.bits))  # type: ignore[index]
                continue
            node = InputNode(integer_input(quantizer, quantizer.bits), key)  # type: ignore[arg-type]
            lowered.inputs[key] = node
            block.operands[operand] = node  # type: ignore[index]
