"""Codes that an ONNX graph would find twice: a layer reads a value on the grid that it is on already."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantizable.deploy.requirements import require


def drop_repeated_codes(graph: Any) -> None:
    """Let what quantizes dequantized codes by their own scale and zero point read these codes, in place.

    ``quantize(dequantize(codes)) == codes``, and an engine would spend a pass on it.
    """
    onnx = require("onnx", "ONNX export")
    constants = {held.name: held for held in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}

    def grid(node: Any) -> list[np.ndarray]:
        return [onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:] if name in constants]

    codes: dict[str, str] = {}
    for node in graph.node:
        source = made.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        ours, theirs = grid(node), grid(source)
        if len(ours) == len(theirs) == 2 and all(map(np.array_equal, ours, theirs)):
            codes[node.output[0]] = source.input[0]
    for node in [*graph.node]:
        if node.output[0] in codes:
            graph.node.remove(node)
        else:
            node.input[:] = [codes.get(name, name) for name in node.input]
