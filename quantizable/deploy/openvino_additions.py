"""OpenVINO graphs whose residual additions fuse into the convolution before them.

A network trained with ``residual=8`` clamps a convolution's output, adds the shortcut's codes and rounds the
sum. OpenVINO fuses that only where the clamp is a ``FakeQuantize``, and then leaves out the rounding of it
("drop rounding one special residual pattern" in its CPU plugin): the very function that was trained. Whether
the engine at hand does so is asked of it first, by a graph of one pixel.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from quantizable.deploy.requirements import openvino_core, require

LEVELS = 256
ENGINE = "engine 'openvino'"


def with_fused_additions(graph: Any) -> None:
    """Put a ``FakeQuantize`` for each clamp of a convolution's output that is added to codes, in place.

    Only where the sum is rounded next, and where the convolution has integer weights.

    Args:
        graph: an ``openvino.Model``.
    """
    found = [
        (node, clamped)
        for node in graph.get_ordered_ops()
        if (clamped := _clamped(node)) is not None and _is_added(node, clamped[0].get_node())
    ]
    if found and drops_rounding():
        for node, clamped in found:
            (reader,) = node.output(0).get_target_inputs()
            reader.replace_source_output(_levels(*clamped))


def _levels(value: Any, low: float, high: float) -> Any:
    ops = require("openvino", ENGINE).opset13
    limits = [np.float32(limit) for limit in (low, high, low, high)]
    return ops.fake_quantize(value, *map(ops.constant, limits), LEVELS).output(0)


def _clamped(node: Any) -> tuple[Any, float, float] | None:
    """What a node clamps, and its limits: ONNX's Clip is a minimum of a maximum."""
    limits = []
    value = node.output(0) if node.get_output_size() else None
    for kind in ("Minimum", "Maximum"):
        if value is None or value.get_node().get_type_name() != kind:
            return None
        sides = value.get_node().input_values()
        constants = [side.get_node() for side in sides if side.get_node().get_type_name() == "Constant"]
        if len(constants) != 1 or constants[0].data.size != 1:
            return None
        limits.append(float(constants[0].data.item()))
        (value,) = (side for side in sides if side.get_node().get_type_name() != "Constant")
    return value, limits[1], limits[0]


def _is_added(clamp: Any, source: Any) -> bool:
    """True if the clamp stands between a convolution on integers and an addition that is rounded next."""
    add = only_reader(clamp, "Add")
    if add is None or not integer_convolution(source):
        return False
    (other,) = (v.get_node() for v in add.input_values() if v.get_node().get_name() != clamp.get_name())
    next_one = only_reader(add, "Relu") or add
    return _from_codes(other) and only_reader(next_one, "FakeQuantize") is not None


def only_reader(node: Any, kind: str) -> Any:
    """The only node that reads another, if it is of that kind."""
    readers = [target.get_node() for target in node.output(0).get_target_inputs()]
    return readers[0] if len(readers) == 1 and readers[0].get_type_name() == kind else None


def integer_convolution(node: Any) -> bool:
    """True for a convolution with integer weights, and for the addition of its bias."""
    if node.get_type_name() == "Add":  # the bias
        node = node.input_value(0).get_node()
    if node.get_type_name() not in ("Convolution", "GroupConvolution"):
        return False
    return _from_codes(node.input_value(1).get_node(), ("i8", "i4"))


def _from_codes(node: Any, types: tuple[str, ...] = ("u8",)) -> bool:
    """True for what multiplies, shifts and rearranges stored integers."""
    passed = ("Multiply", "Subtract", "Convert", "Reshape", "StridedSlice", "Pad", "MaxPool")
    while node.get_type_name() in passed and node.get_output_element_type(0).get_type_name() not in types:
        node = node.input_value(0).get_node()
    return node.get_output_element_type(0).get_type_name() in types


@cache
def drops_rounding() -> bool:
    """True if this engine, on this processor, leaves out the rounding of an operand that it fuses."""
    openvino = require("openvino", ENGINE)
    ops = openvino.opset13
    channels, width, step, factor, bias = 16, 64, 0.7, 0.3, 0.0537

    def convolution(x: Any, scale: float, shift: float) -> Any:
        integers = ops.constant(np.eye(channels, dtype=np.int8).reshape(channels, channels, 1, 1))
        weight = ops.multiply(ops.convert(integers, "f32"), ops.constant(np.float32(scale)))
        product = ops.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])
        return ops.add(product, ops.constant(np.full((1, channels, 1, 1), shift, np.float32)))

    given = ops.parameter([1, channels, 1, width], np.float32)
    codes = _levels(given, 0.0, 255 * step)
    branch = convolution(_levels(convolution(codes, 1.0, 0.0), 0.0, 255 * step), factor, bias)
    # on a grid of halves as the sum is: what the operand had behind the point is seen
    total = ops.relu(ops.add(_levels(branch, -64.0, 63.5), codes))
    last = convolution(_levels(total, 0.0, 127.5), 1.0, 0.0)
    x = np.arange(width, dtype=np.float32) * np.float32(step)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core(ENGINE).compile_model(openvino.Model([last], [given]), "CPU", options)
    got = compiled([np.broadcast_to(x, (1, channels, 1, width)).copy()])[0]
    return bool(np.abs(got - np.round((x * factor + bias + x) * 2) / 2).max() < 0.01)
