"""Residual additions on 8-bit codes, so that engines fuse them into the convolution before them.

Training leaves both operands of an addition in float, so that a block's last convolution has to write floats,
which another pass adds, rectifies and quantizes. Engines' own post-training quantization puts the operands on
8-bit grids too, and so does this: faster, and no longer the function that was trained.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.deploy.integer_nodes import node_layer
from quantizable.deploy.requirements import require
from quantizable.storage.outputs import INPUT


def integer_residuals(model: Any, images: Tensor) -> Any:
    """A model whose additions of a convolution's output work on 8-bit codes.

    An operand that a layer reads on all 8 bits takes that layer's codes; any other gets a grid from its
    smallest to its largest value on ``images`` (ONNX Runtime's static quantization, min-max).

    Args:
        model: ``onnx.ModelProto`` in the style ``"qdq"``; it is left as it is.
        images: ``[N, C, H, W]``, normalized as in training.

    Returns:
        a new model, or ``model`` itself where it adds no convolution's output.

    Raises:
        ImportError: onnx or onnxruntime is missing.
    """
    onnx = require("onnx", "integer residual additions")
    require("onnxruntime", "integer residual additions")
    from onnxruntime.quantization import QuantFormat, quantize_static

    made = {name: node for node in model.graph.node for name in node.output}
    names = [n.name for n in model.graph.node if n.op_type == "Add" and _adds_convolution(n, made)]
    if not names:
        return model
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantize_static(
            source, target, _Batches(images), quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Add"], nodes_to_quantize=names,
            # with a zero point other than the middle OpenVINO does not fuse the addition
            extra_options={"OpTypesToExcludeOutputQuantization": ["Add"], "ActivationSymmetric": True},
        )  # fmt: skip
        changed = onnx.load(target)
    _only_for(set(names), changed.graph)
    return changed


def _adds_convolution(node: Any, made: dict[str, Any]) -> bool:
    operands = [made.get(name) for name in node.input]
    return None not in operands and any(o.op_type == "Conv" for o in operands if o is not None)


def _only_for(additions: set[str], graph: Any) -> None:
    """Keep the new codes to the additions; those read a layer's own 8-bit codes where it has some."""
    made = {name: node for node in graph.node for name in node.output}
    adding = [node for node in graph.node if node.name in additions]
    codes = {name: made[made[name].input[0]] for node in adding for name in node.input}
    readers = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in codes and node.name not in additions:  # a layer's own grid reads the value itself
                name = node.input[position] = codes[name].input[0]
            readers[name].append(node)
    for name, second in codes.items():
        for own in filter(node_layer, readers[second.input[0]]):
            value = readers[own.output[0]][0]
            if value.op_type == "DequantizeLinear":  # and no Clip, to fewer than 8 bits
                for node in adding:
                    node.input[:] = [value.output[0] if i == name else i for i in node.input]
                graph.node.remove(made[name])
                graph.node.remove(second)
                break


class _Batches:
    """What ONNX Runtime's calibration reads: batches of 64 images."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter(images.split(64))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without ONNX Runtime's advice to preprocess the model, which goes to the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
