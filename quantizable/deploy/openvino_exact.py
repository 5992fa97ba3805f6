"""OpenVINO graphs made safe for processors whose integer kernels saturate.

A product of integers that can saturate by its own numbers gets its weights as float constants, so that the
engine multiplies its dequantized codes in float. All other products stay integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quantizable.deploy.requirements import openvino_core, require
from quantizable.deploy.saturation import can_saturate

PRODUCTS = (
    *("Convolution", "ConvolutionBackpropData", "MatMul"),
    *("GroupConvolution", "GroupConvolutionBackpropData"),
)
REARRANGED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze")  # weights on their way to the product
PASSED = ("Multiply", "Subtract", "Convert", *REARRANGED)


def without_saturation(graph: Any, all_layers: bool = False) -> list[str]:
    """Give float weights to each product of a graph that can saturate, in place.

    Args:
        graph: an ``openvino.Model`` with codes in unsigned bytes and weights in signed ones.
        all_layers: give them to every product of integers.

    Returns:
        Names of the layers that run in float now.
    """
    ops = require("openvino", "engine 'openvino'").opset13
    changed = []
    for node in _products(graph):
        integers, highest = _integers(node.input_value(1)), highest_code(node.input_value(0))
        if integers is None or highest is None:
            continue
        if not all_layers and not can_saturate(_rows(node, integers), highest):
            continue
        changed.append(_layer(node))
        weights = ops.constant(_value(node.input_value(1)))
        node.input(1).replace_source_output(weights.output(0))
    return changed


def codes_can_saturate(graph: Any) -> bool:
    """True if two inputs of codes meet in a product (of attention) whose pairs can leave int16."""
    pairs = [
        (highest_code(node.input_value(0)), highest_code(node.input_value(1)))
        for node in _products(graph)
        if _integers(node.input_value(1)) is None
    ]
    return any(a is not None and b is not None and can_saturate(np.full((1, 2), b), a) for a, b in pairs)


def highest_code(output: Any) -> int | None:
    """The largest unsigned code that an output stands for; None if no codes come in before another product.

    Codes reach a product through operations that move them (padding, pooling, reshaping), so that all of
    these are looked through. What is not known counts as 255.
    """
    highest, seen, waiting = None, set(), [output.get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen or node.get_type_name() in PRODUCTS:
            continue
        seen.add(node.get_name())
        if _type(node) != "u8":
            waiting += [source.get_node() for source in node.input_values()]
        elif node.get_type_name() not in ("Constant", "Parameter"):  # no code: a zero point, an image
            highest = max(highest or 0, _highest_of_bytes(node))
    return highest


def _highest_of_bytes(node: Any) -> int:
    """The upper bound that a Clip puts on codes in unsigned bytes: Minimum of Maximum, in either order."""
    bounds = [255]
    while node.get_type_name() in ("Minimum", "Maximum"):
        sources = [source.get_node() for source in node.input_values()]
        if node.get_type_name() == "Minimum":
            bounds += [int(source.data.max()) for source in sources if source.get_type_name() == "Constant"]
        node = next((source for source in sources if source.get_type_name() != "Constant"), sources[0])
    return min(bounds)


def _type(node: Any) -> str:
    return node.get_output_element_type(0).get_type_name()


def _products(graph: Any) -> list[Any]:
    return [node for node in graph.get_ordered_ops() if node.get_type_name() in PRODUCTS]


def _layer(node: Any) -> str:
    """The layer's name, which its stored integers carry."""
    weights = node.input_value(1).get_node()
    while weights.get_type_name() in PASSED:
        weights = weights.input_value(0).get_node()
    return weights.get_friendly_name().removesuffix(".weight_quantizer.integers")


def _integers(output: Any) -> np.ndarray | None:
    """The stored integers of weights, as the product sees their axes; None if there are none."""
    chain, node = [], output.get_node()
    while node.get_type_name() in PASSED:
        chain.append(node)
        node = node.input_value(0).get_node()
    if not chain or node.get_type_name() != "Constant" or _type(node) not in ("i8", "i4"):
        return None
    integers = _value(chain.pop().output(0)).astype(np.int64)  # behind Convert, which unpacks four bits
    for step in reversed(chain):
        if step.get_type_name() == "Transpose":
            integers = integers.transpose(_value(step.input_value(1)).tolist())
        elif step.get_type_name() in REARRANGED:
            integers = integers.reshape(step.shape)
    return integers


def _value(output: Any) -> np.ndarray:
    """What a tree of constants comes to, computed by the engine itself."""
    openvino = require("openvino", "engine 'openvino'")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core("engine 'openvino'").compile_model(openvino.Model([output], []), "CPU", options)
    return np.array(compiled([])[0])


def _rows(node: Any, integers: np.ndarray) -> np.ndarray:
    """The integers as ``[output channels, what is summed]``."""
    kind = node.get_type_name()
    if kind == "Convolution":
        return integers.reshape(len(integers), -1)
    if kind == "ConvolutionBackpropData":
        return integers.swapaxes(0, 1).reshape(integers.shape[1], -1)
    if kind == "MatMul":
        transposed = node.get_attributes()["transpose_b"]
        summed_last = integers if transposed or integers.ndim < 2 else integers.swapaxes(-1, -2)
        return summed_last.reshape(-1, summed_last.shape[-1])
    if kind == "GroupConvolution":  # [groups, out, in, ...]
        return integers.reshape(integers.shape[0] * integers.shape[1], -1)
    swapped = integers.swapaxes(1, 2)  # [groups, in, out, ...] of the transposed one
    return swapped.reshape(swapped.shape[0] * swapped.shape[1], -1)
