"""Codes that an ONNX graph would find twice: a layer reads a value on the grid that it is on already."""

from __future__ import annotations

from typing import Any

from quantizable.deploy.requirements import require


def drop_repeated_codes(graph: Any) -> None:
    """Let what quantizes a value once more by the same scale and zero point read the first codes, in place.

    That is what quantizes dequantized codes (``quantize(dequantize(codes)) == codes``), and what quantizes
    the same value as another node. An engine would spend a pass on each.
    """
    onnx = require("onnx", "ONNX export")
    constants = {held.name: held for held in graph.initializer}
    first: dict[tuple[Any, ...], str] = {}
    codes: dict[str, str] = {}
    for node in [*graph.node]:
        node.input[:] = [codes.get(name, name) for name in node.input]
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) != 3:
            continue
        if not {*node.input[1:]} <= constants.keys():
            continue
        grid = tuple(onnx.numpy_helper.to_array(constants[name]).tobytes() for name in node.input[1:])
        if node.op_type == "DequantizeLinear":
            first[node.output[0], grid] = node.input[0]
        else:
            known = first.setdefault((node.input[0], grid), node.output[0])
            if known != node.output[0]:
                codes[node.output[0]] = known
                graph.node.remove(node)
