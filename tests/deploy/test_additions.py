"""Residual additions that were trained on grids: files, engines, the integer reference and cost."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quantizable
from quantizable.deploy import save_qz
from quantizable.deploy.divergence import fake_quant_codes, reference_codes, step_differences
from quantizable.deploy.engines import openvino_graph
from quantizable.deploy.export import onnx_model
from quantizable.deploy.openvino_additions import drops_rounding
from quantizable.deploy.processor import exact_kernels
from quantizable.deploy.reference import integer_network
from quantizable.deploy.requirements import openvino_core
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.network import QuantizableNetwork
from tests.deploy.ties import answers_of_both_kernels, assert_equal_but_for_ties
from tests.small_net import SmallNet, trained_like
from tests.small_residual import SIZE, ResidualNet, residual_network

BITS = (4, 8)


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(24, *SIZE)


@pytest.fixture(scope="module")
def exported() -> tuple[QuantizableNetwork, dict[int, Any]]:
    """A network and its modes as ONNX models."""
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    torch.manual_seed(0)
    network = residual_network((*BITS, 32))
    with torch.no_grad():  # as training does: calibration gives all readers of a value one grid
        for bits in BITS:
            network.layers()["blocks.1.shortcut.0"].input_quantizer.level(bits).scale.mul_(
                3**0.1
            )  # no code lands on a tie
    return network, {bits: onnx_model(network, bits) for bits in BITS}


@pytest.mark.parametrize("bits", BITS)
def test_no_float_reaches_an_addition_but_what_a_convolution_just_computed(exported, bits: int) -> None:
    nodes = exported[1][bits].graph.node
    kinds = {name: node.op_type for node in nodes for name in node.output}
    added = [[kinds[name] for name in node.input] for node in nodes if node.op_type == "Add"]
    assert added == [["Clip", "DequantizeLinear"]] * 2
    readers = Counter(n.op_type for n in nodes for name in n.input if kinds.get(name) == "Relu")
    # what follows a sum is one grid, which all readers of the sum share; the last ReLU is pooled
    assert readers == {"QuantizeLinear": 5, "ReduceMean": 1}
    found = [
        n for n in nodes if n.op_type == "QuantizeLinear" and kinds.get(n.input[0]) == "DequantizeLinear"
    ]
    assert len(found) == {8: 1, 4: 3}[bits]  # the second reader's own grid; at 4 bits each reader's


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_what_was_trained(
    exported, monkeypatch: pytest.MonkeyPatch, batch: Tensor, engine: str, bits: int
) -> None:
    network, models = exported
    for got in answers_of_both_kernels(engine, models[bits], batch, monkeypatch):
        assert_equal_but_for_ties(got, network, bits, batch)


def test_openvino_has_the_whole_block_in_integers(exported) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    if not exact_kernels() or not drops_rounding():
        pytest.skip("OpenVINO does not fuse these additions into integer kernels on this processor")
    graph, options = openvino_graph(exported[1][8].SerializeToString())
    graph.reshape([4, *SIZE])
    options["INFERENCE_PRECISION_HINT"] = "f32"
    runtime = openvino_core("this test").compile_model(graph, "CPU", options).get_runtime_model()
    kinds: Counter[tuple[str, str]] = Counter()
    for node in runtime.get_ops():
        kind = node.get_rt_info()["layerType"]
        kind = kind if isinstance(kind, str) else kind.astype(str)
        kinds[kind, node.get_output_element_type(0).get_type_name()] += 1
    assert kinds["Convolution", "u8"] == 6  # all but the last, which is pooled
    assert not [key for key in kinds if key[0] in ("Eltwise", "FakeQuantize")]  # no addition beside them
    assert kinds["Subgraph", "f32"] + kinds["Subgraph", "u8"] <= 3  # image, a second grid, the last ReLU


@pytest.mark.parametrize("fixed_point", [False, True])
@pytest.mark.parametrize("bits", [2, 8])
def test_the_integer_reference_has_the_same_codes(batch: Tensor, bits: int, fixed_point: bool) -> None:
    network = residual_network()
    expected = fake_quant_codes(network, bits, batch)
    assert {"blocks.0.additions.input", "blocks.1.additions.0_right"} <= expected.keys()
    found = step_differences(expected, reference_codes(network, bits, batch, fixed_point, given=expected))
    assert len(found) == len(expected)
    assert all(row.differing <= 1e-3 and row.largest <= 1 for row in found)
    got = integer_network(network, bits, batch[:1], fixed_point)(batch.double())
    network.set_bits(bits)
    same = (got.argmax(1) == network(batch).argmax(1)).float().mean()
    assert same >= 0.9  # a code off by a step where one of them rounds a tie


@pytest.mark.parametrize("root", [False, True])
def test_a_qz_file_brings_them_back_bit_for_bit(tmp_path: Path, root: bool) -> None:
    size = (3, 10, 10) if root else SIZE
    kind = SmallNet if root else ResidualNet
    x = torch.randn(4, *size)
    if root:
        network = quantizable.quantize(trained_like(SmallNet()), [2, 4, 8, 32], residual=8)
        network.calibrate([x])
        network.eval()
    else:
        network = residual_network()
    save_qz(network, tmp_path / "model.qz")
    loaded = quantizable.load(tmp_path / "model.qz", model=kind())
    assert loaded.additions().keys() == network.additions().keys()
    for bits in (2, 4, 8):
        network.set_bits(bits)
        loaded.set_bits(bits)
        assert torch.equal(loaded(x), network(x))
    if not root:
        for one in (network, loaded):
            rows = {(c.mode, c.layer): c for c in layer_costs(one, SIZE)}
            assert rows["2", "blocks.1.additions"].input_bits == 8


def test_cost_counts_them() -> None:
    network = residual_network()
    rows = {(cost.mode, cost.layer): cost for cost in layer_costs(network, SIZE)}
    row = rows["4", "blocks.1.additions"]
    assert (row.weight_bits, row.input_bits, row.macs, row.bops, row.parameters) == (8, 8, 0, 0, 0)
    assert row.activation_bytes == 8 * 8 * 8
    assert rows["32", "blocks.1.additions"].activation_bytes == 8 * 8 * 8 * 4
    plain = residual_network(residual=None)
    ours, theirs = (mode_costs(one, layer_costs(one, SIZE)) for one in (network, plain))
    assert ours == theirs


def test_int8_residuals_of_images_are_refused_in_one_line(batch: Tensor) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    with pytest.raises(ValueError, match="additions are integer already; export it without residual_images"):
        onnx_model(residual_network((8,)), 8, residual_images=batch)


def test_the_report_and_qonnx_say_their_widths(exported) -> None:
    network, models = exported
    about = json.loads({p.key: p.value for p in models[4].metadata_props}["quantizable"])
    assert about["layers"]["blocks.0.additions"] == "integer a8"
    assert about["residual additions"] == "as trained"
    graph = onnx_model(network, 4, style="qonnx").graph
    held = {i.name: i for i in graph.initializer}
    onnx = pytest.importorskip("onnx", reason="the deploy extra is not installed")
    names = [node.input[3] for node in graph.node if node.op_type == "Quant"]
    widths = [float(onnx.numpy_helper.to_array(held[name])) for name in names]
    assert widths.count(8) == 3 + 4  # two inputs of blocks and a shortcut; first and last layer
