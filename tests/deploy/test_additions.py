"""Residual additions that were trained on grids: files, engines, the integer reference, cost and bounds."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantizable import load
from quantizable.deploy import Session, export_onnx, save_qz
from quantizable.deploy.divergence import engine_codes, fake_quant_codes, reference_codes, step_differences
from quantizable.deploy.export import onnx_model
from quantizable.deploy.reference import integer_network
from quantizable.measure.cost import layer_costs, mode_costs
from tests.deploy.ties import assert_equal_but_for_ties
from tests.small_net import SmallNet, trained_like
from tests.small_residual import SIZE, ResidualNet, residual_network

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(24, *SIZE)


def made_by(model) -> dict[str, str]:
    return {name: node.op_type for node in model.graph.node for name in node.output}


@pytest.mark.parametrize("bits", [4, 8])
def test_no_float_reaches_an_addition_but_what_a_convolution_just_computed(bits: int) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    network = residual_network((4, 8, 32))
    with torch.no_grad():  # as training does: calibration gives all readers of a value one grid
        network.layers()["blocks.1.shortcut.0"].input_quantizer.level(bits).scale.mul_(1.1)
    model = onnx_model(network, bits)
    kinds = made_by(model)
    added = [[kinds[name] for name in node.input] for node in model.graph.node if node.op_type == "Add"]
    assert added == [["Clip", "DequantizeLinear"]] * 2
    readers = Counter(
        node.op_type for node in model.graph.node for name in node.input if kinds.get(name) == "Relu"
    )
    # what follows a sum is one grid, which all readers of the sum share; the last ReLU is pooled
    assert readers == {"QuantizeLinear": 5, "ReduceMean": 1}
    again = [
        n
        for n in model.graph.node
        if n.op_type == "QuantizeLinear" and kinds.get(n.input[0]) == "DequantizeLinear"
    ]
    assert len(again) == {8: 1, 4: 3}[bits]  # the second reader's own grid; at 4 bits each reader's


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_engines_compute_what_was_trained(
    tmp_path: Path, kernels: str, batch: Tensor, engine: str, bits: int
) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    network = residual_network()
    export_onnx(network, tmp_path / "model.onnx", bits)
    for images in (None, len(batch)):
        got = Session(tmp_path / "model.onnx", engine, batch=images)(batch.numpy())
        assert_equal_but_for_ties(got, network, bits, batch)


def test_openvino_has_the_whole_block_in_integers() -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    pytest.importorskip("openvino", reason="openvino is not installed")
    from quantizable.deploy.engines import openvino_graph
    from quantizable.deploy.openvino_additions import drops_rounding
    from quantizable.deploy.processor import exact_kernels
    from quantizable.deploy.requirements import openvino_core

    if not exact_kernels() or not drops_rounding():
        pytest.skip("OpenVINO does not fuse these additions into integer kernels on this processor")
    model = onnx_model(residual_network((4, 8, 32)), 8).SerializeToString()
    graph, options = openvino_graph(model)
    graph.reshape([4, *SIZE])
    options["INFERENCE_PRECISION_HINT"] = "f32"
    runtime = openvino_core("this test").compile_model(graph, "CPU", options).get_runtime_model()
    kinds = Counter()
    for node in runtime.get_ops():
        kind = node.get_rt_info()["layerType"]
        kinds[
            kind if isinstance(kind, str) else kind.astype(str),
            node.get_output_element_type(0).get_type_name(),
        ] += 1
    # float is what the last layers give out; no addition is left beside the convolutions
    assert kinds["Convolution", "u8"] == 6
    assert not [key for key in kinds if key[0] in ("Eltwise", "FakeQuantize")]
    assert (
        kinds["Subgraph", "f32"] + kinds["Subgraph", "u8"] <= 3
    )  # the image, the second grid, the last ReLU


@pytest.mark.parametrize("fixed_point", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
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


def test_an_engines_codes_are_those_of_fake_quant(batch: Tensor) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    network = residual_network()
    rows = step_differences(fake_quant_codes(network, 4, batch), engine_codes(network, 4, batch))
    assert {"blocks.0.additions.input", "blocks.1.additions.0_right", "blocks.1.conv1"} <= {
        r.layer for r in rows
    }
    assert all(row.differing <= 1e-3 and row.largest <= 1 for row in rows)


@pytest.mark.parametrize("root", [False, True])
def test_a_qz_file_brings_them_back_bit_for_bit(tmp_path: Path, root: bool) -> None:
    size = (3, 10, 10) if root else SIZE
    kind = SmallNet if root else ResidualNet
    x = torch.randn(4, *size)
    if root:
        import quantizable

        network = quantizable.quantize(trained_like(SmallNet()), [2, 4, 8, 32], residual=8)
        network.calibrate([x])
        network.eval()
    else:
        network = residual_network()
    save_qz(network, tmp_path / "model.qz")
    loaded = load(tmp_path / "model.qz", model=kind())
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
    assert row.activation_bytes == 8 * 8 * 8 * (1 + 4)
    assert rows["32", "blocks.1.additions"].activation_bytes == 8 * 8 * 8 * (4 + 4)
    plain = residual_network(residual=None)
    ours, theirs = (mode_costs(one, layer_costs(one, SIZE)) for one in (network, plain))
    assert ours == theirs


def test_int8_residuals_of_images_are_refused_in_one_line(batch: Tensor) -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    with pytest.raises(ValueError, match="additions are integer already; export it without residual_images"):
        onnx_model(residual_network((8,)), 8, residual_images=batch)


def test_the_report_and_qonnx_say_their_widths() -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    import json

    network = residual_network()
    model = onnx_model(network, 4)
    about = json.loads({p.key: p.value for p in model.metadata_props}["quantizable"])
    assert about["layers"]["blocks.0.additions"] == "integer a8"
    assert about["residual additions"] == "as trained"
    qonnx = onnx_model(network, 4, style="qonnx")
    held = {i.name: i for i in qonnx.graph.initializer}
    onnx = pytest.importorskip("onnx")
    widths = [
        float(onnx.numpy_helper.to_array(held[n.input[3]])) for n in qonnx.graph.node if n.op_type == "Quant"
    ]
    assert widths.count(8) == 3 + 4  # two inputs of blocks, a shortcut; first and last layer


def test_a_file_of_floats_in_mode_32() -> None:
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    model = onnx_model(residual_network((4, 32)), 32)
    assert not {"QuantizeLinear", "Clip"} & {node.op_type for node in model.graph.node}
