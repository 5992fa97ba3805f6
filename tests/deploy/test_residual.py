"""Residual additions on 8-bit codes, run on the engines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy import Session, export_onnx
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.deploy.export import onnx_model

onnx = pytest.importorskip("onnx", reason="the deploy extra is not installed")
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")


def operands(model, kind: str) -> list[str]:
    """What makes the operands of all nodes of a kind."""
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        made.get(name, "input") for node in model.graph.node if node.op_type == kind for name in node.input
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_sum_is_that_of_two_8_bit_grids(make, images: Tensor, tmp_path: Path, bits: int) -> None:
    network = make(bits=(bits,))
    export_onnx(network, tmp_path / "float.onnx", bits)
    export_onnx(network, tmp_path / "int8.onnx", bits, residual_images=images)
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine, reason=f"{engine} is not installed")
        exact = Session(tmp_path / "float.onnx", engine)(images)
        fused = Session(tmp_path / "int8.onnx", engine)(images)
        # two operands, each off by half a step of a 255th of its range at most: a few percent of the logits
        assert 0 < np.abs(fused - exact).max() < 0.1 * np.abs(exact).max()


def test_an_operand_that_a_layer_reads_on_8_bits_has_one_grid(make, images: Tensor) -> None:
    network = make(bits=(4, 8))
    counts = {}
    for bits in (4, 8):
        model = onnx_model(network, bits, residual_images=images)
        onnx.checker.check_model(model)
        assert operands(model, "Add") == ["DequantizeLinear"] * 2
        counts[bits] = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert counts == {8: 5 + 1, 4: 5 + 2}  # the five layers' own; the skip shares that of 8 bits


def test_only_where_a_convolution_is_added(make, images: Tensor) -> None:
    network = make(bits=(8,))
    network.model.block = torch.nn.Identity()
    network.model.block_norm = torch.nn.Identity()
    plain, asked = onnx_model(network, 8), onnx_model(network, 8, residual_images=images)
    assert [n.op_type for n in asked.graph.node] == [n.op_type for n in plain.graph.node]


def test_qonnx_has_no_such_codes(make, images: Tensor) -> None:
    with pytest.raises(ValueError, match="need style 'qdq'"):
        onnx_model(make(bits=(8,)), 8, style="qonnx", residual_images=images)


class SharedBlock(nn.Module):
    """One residual block on an image and on its half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.block(x)).relu()
        x = torch.nn.functional.max_pool2d(x, 2)
        return self.head((x + self.block(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_used_twice_has_grids_of_its_own_each_time(images: Tensor, bits: int) -> None:
    torch.manual_seed(0)
    network = quantizable.quantize(SharedBlock(), [bits]).eval()
    network.calibrate([images])
    with torch.no_grad():
        expected = network(images)
    model = onnx_model(network, bits, input_size=(3, 10, 10), residual_images=images)
    assert operands(model, "Add") == ["DequantizeLinear"] * 4
    made = {node.output[0]: node for node in model.graph.node}
    sums = [made[name] for node in model.graph.node if node.op_type == "Add" for name in node.input]
    grids = {(node.input[1], node.input[2]) for node in sums}
    # at 8 bits both skips have the grid of the layer that reads them, the block's outputs one each
    assert len(grids) == (3 if bits == 8 else 4)
    found = compile_onnxruntime(model.SerializeToString(), 1, None)(images.numpy())
    assert np.abs(found - expected.numpy()).max() < 0.05 * expected.abs().max()
