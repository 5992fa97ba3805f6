"""Linear layers on ONNX Runtime with weights of 4 bits, which its kernel unpacks while it multiplies.

An ONNX file with INT4 weights holds a DequantizeLinear in front of each product. ONNX Runtime computes that
once at its start and multiplies in float: the file is small, the memory is not. Its operator ``MatMulNBits``
reads the 4-bit codes themselves. It takes weights of linear layers alone, whose input is a float.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from quantizable.deploy.requirements import require

DOMAIN = "com.microsoft"
BLOCKS = (128, 64, 32, 16)  # sizes that the kernel takes of a block of codes; the last one may be part full
ZERO = 8  # of the kernel's unsigned codes
IN_FLOAT, IN_INT8 = 1, 4  # what the kernel rounds its input to: nothing, or 8 bits, batch by batch


def for_onnxruntime(model: bytes | Path) -> bytes | Path:
    """The file as ONNX Runtime runs it best: itself, without INT4 weights or without onnx to read it."""
    if importlib.util.find_spec("onnx") is None:
        return model
    onnx = require("onnx", "4-bit products")
    content = model.read_bytes() if isinstance(model, Path) else model
    graph = onnx.load_from_string(content)
    return graph.SerializeToString() if with_four_bit_products(graph) else model


def with_four_bit_products(model: Any, accuracy: int = IN_FLOAT) -> list[str]:
    """Put ``MatMulNBits`` in place of the products with INT4 weights; gives the names of these weights.

    Args:
        model: an ``onnx.ModelProto``; it is changed.
        accuracy: ``IN_FLOAT`` leaves the input as training had it; ``IN_INT8`` lets the kernel round it.
    """
    onnx = require("onnx", "4-bit products")
    graph = model.graph
    weights = {w.name: w for w in graph.initializer if w.data_type == onnx.TensorProto.INT4}
    scales = {i.name: i for i in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    done = []
    for place, node in enumerate(list(graph.node)):
        found = _weight_of(node, made, weights)
        if found is None:
            continue
        codes = onnx.numpy_helper.to_array(weights[found.input[0]]).astype(np.int8)
        scale = onnx.numpy_helper.to_array(scales[found.input[1]])
        packed, spread, block = packed_blocks(codes, scale)
        names = [f"{found.input[0]}.{what}" for what in ("blocks", "scales")]
        graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name)
            for array, name in zip((packed, spread), names, strict=True)
        )
        bias = [node.input[2]] if node.op_type == "Gemm" and len(node.input) > 2 else []
        product = onnx.helper.make_node(
            "MatMulNBits", [node.input[0], *names, *([""] * 2 + bias if bias else [])], list(node.output),
            domain=DOMAIN, K=codes.shape[1], N=codes.shape[0], bits=4, block_size=block,
            accuracy_level=accuracy,
        )  # fmt: skip
        product.metadata_props.extend(found.metadata_props)
        graph.node.remove(node)
        graph.node.insert(place, product)
        done.append(found.input[0])
    _drop_unused(graph)
    if done and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return done


def _weight_of(node: Any, made: dict[str, Any], weights: dict[str, Any]) -> Any | None:
    """The DequantizeLinear of an INT4 weight ``[N, K]`` that the node multiplies its input with, if so."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    second = made.get(node.input[1])
    values = {"transA": 0, "transB": 0, "alpha": 1, "beta": 1}
    values |= {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}
    if node.op_type == "MatMul":
        if second is None or second.op_type != "Transpose" or list(second.attribute[0].ints) != [1, 0]:
            return None
        second = made.get(second.input[0])
    elif not (values["transB"] == values["alpha"] == values["beta"] == 1 and values["transA"] == 0):
        return None
    if second is None or second.op_type != "DequantizeLinear" or second.input[0] not in weights:
        return None
    first = made.get(node.input[0])
    if first is not None and first.op_type == "DequantizeLinear":
        return None  # codes times codes: the integer kernels of 8 bits are quicker
    return second if len(weights[second.input[0]].dims) == 2 and len(second.input) == 2 else None


def packed_blocks(codes: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Codes as the kernel reads them, a scale for each block, and the size of a block.

    Args:
        codes: ``[N, K]``, -8 to 7.
        scale: one number, or one for each of the N rows.

    Returns:
        Bytes ``[N, K / block, block / 2]``, the even code in the low half; scales ``[N * K / block]``.
    """
    rows, length = codes.shape
    block = next((size for size in BLOCKS if length % size == 0), BLOCKS[1])
    count = -(-length // block)
    padded = np.zeros((rows, count * block), np.uint8)
    padded[:, :length] = codes + ZERO
    packed = (padded[:, ::2] | padded[:, 1::2] << 4).reshape(rows, count, block // 2)
    spread = np.repeat(np.broadcast_to(scale.reshape(-1), (rows,)), count).astype(np.float32)
    return packed, spread, block


def _drop_unused(graph: Any) -> None:
    """Drop what nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        idle = [node for node in graph.node if not read & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [i for i in graph.initializer if i.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
