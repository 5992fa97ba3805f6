"""Products with INT4 weights on ONNX Runtime's 4-bit kernel, against integer arithmetic."""

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from quantizable.deploy.engines import compile_onnxruntime, compile_openvino  # noqa: E402
from quantizable.deploy.four_bit import (  # noqa: E402
    BLOCKS,
    for_onnxruntime,
    packed_blocks,
    with_four_bit_products,
)


def codes_of(rows: int, length: int) -> np.ndarray:
    """All codes from -8 to 7, in an order of no pattern."""
    return np.random.default_rng(0).integers(-8, 8, (rows, length)).astype(np.int8)


def product(codes: np.ndarray, scale: np.ndarray, kind: str, container: str = "INT4") -> Any:
    """A model of one linear layer, ``[B, K]`` to ``[B, N]``; ``kind``: ``MatMul`` or ``Gemm``."""
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, container))
    rows, length = codes.shape
    held = [
        numpy_helper.from_array(codes.astype(dtype), "codes"),
        numpy_helper.from_array(scale.astype(np.float32), "scale"),
        numpy_helper.from_array(np.arange(rows, dtype=np.float32), "bias"),
    ]
    axis = {"axis": 0} if scale.ndim else {}
    nodes = [helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"], **axis)]
    if kind == "Gemm":
        nodes.append(helper.make_node("Gemm", ["image", "weight", "bias"], ["y"], transB=1))
    else:
        nodes.append(helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["image", "turned"], ["product"]))
        nodes.append(helper.make_node("Add", ["product", "bias"], ["y"]))
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", length])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", rows])
    graph = helper.make_graph(nodes, "layer", [given], [taken], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("length", [128, 50, 16, 7, 192])
def test_blocks_hold_the_codes(length: int) -> None:
    codes, scale = codes_of(5, length), np.arange(1, 6) / 8
    packed, spread, block = packed_blocks(codes, scale)
    assert block in BLOCKS
    low, high = (packed & 15).astype(int) - 8, (packed >> 4).astype(int) - 8
    unpacked = np.stack([low, high], -1).reshape(5, -1)
    assert np.array_equal(unpacked[:, :length], codes)
    assert (unpacked[:, length:] == -8).all()  # beyond the end, where the input has nothing
    assert np.array_equal(spread.reshape(5, -1), np.repeat(scale[:, None], packed.shape[1], 1))


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("length", "per_row"), [(128, True), (50, True), (50, False), (7, True)])
def test_equals_integer_arithmetic(kind: str, length: int, per_row: bool) -> None:
    codes = codes_of(6, length)
    scale = 2.0 ** -np.arange(6) if per_row else np.array(0.25)
    model = product(codes, scale, kind)
    given = np.random.default_rng(1).integers(-9, 9, (3, length)).astype(np.float32)  # sums are exact
    expected = (given.astype(np.int64) @ codes.T.astype(np.int64)) * scale + np.arange(6)
    plain = model.SerializeToString()
    assert np.array_equal(compile_onnxruntime(plain, 1, None)(given), expected)
    assert "MatMulNBits" in operators(onnx.load_from_string(for_onnxruntime(plain)))
    assert with_four_bit_products(model) == ["codes"]
    assert "DequantizeLinear" not in operators(model)
    assert "codes" not in {held.name for held in model.graph.initializer}


def test_openvino_reads_the_same_file() -> None:
    pytest.importorskip("openvino")
    codes, scale = codes_of(6, 64), 2.0 ** -np.arange(6)
    given = np.random.default_rng(1).integers(-9, 9, (3, 64)).astype(np.float32)
    expected = (given.astype(np.int64) @ codes.T.astype(np.int64)) * scale + np.arange(6)
    run = compile_openvino(product(codes, scale, "MatMul").SerializeToString(), 1, (3, 64))
    np.testing.assert_allclose(run(given), expected, rtol=1e-5, atol=1e-5)


def test_what_has_no_such_kernel_stays_as_it_is() -> None:
    codes, scale = codes_of(6, 32), np.ones(6)
    eight = product(codes, scale, "MatMul", "INT8").SerializeToString()
    assert for_onnxruntime(eight) is eight
    turned = product(codes, scale, "Gemm")
    turned.graph.node[1].attribute[0].i = 0  # the weight not transposed
    doubled = product(codes, scale, "Gemm")
    doubled.graph.node[1].attribute.append(helper.make_attribute("alpha", 2.0))
    shared = product(codes, scale, "MatMul")
    shared.graph.node[1].attribute[0].ints[:] = [0, 1]  # a Transpose that transposes nothing
    by_codes = product(codes, scale, "MatMul")
    zero = numpy_helper.from_array(np.array(3, np.uint8), "zero")
    one = numpy_helper.from_array(np.array(0.5, np.float32), "one")
    by_codes.graph.initializer.extend([zero, one])
    by_codes.graph.node[2].input[0] = "value"
    for place, (kind, names) in enumerate(
        [("QuantizeLinear", ["image", "one", "zero"]), ("DequantizeLinear", ["c", "one", "zero"])]
    ):
        node = helper.make_node(kind, names, ["c" if place == 0 else "value"])
        by_codes.graph.node.insert(place, node)
    for model in (turned, doubled, shared, by_codes):
        before = operators(model)
        assert with_four_bit_products(model) == []
        assert operators(model) == before
