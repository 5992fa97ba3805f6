"""Exported graphs, run on the engines and on ONNX's own reference implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy import export_onnx
from quantizable.deploy.divergence import engine_codes, fake_quant_codes, step_differences
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import METADATA, onnx_model
from quantizable.deploy.processor import VARIABLE
from quantizable.quantizers import QUANTIZERS
from tests.deploy.ties import assert_equal_but_for_ties, near_ties

onnx = pytest.importorskip("onnx", reason="the deploy extra is not installed")
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402


def run(engine: str, model: bytes, images: Tensor) -> np.ndarray:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    compiled = compile_onnxruntime if engine == "onnxruntime" else compile_openvino
    return compiled(model, None, None)(images.numpy())


@torch.no_grad()
def logits(network, bits, images: Tensor) -> np.ndarray:
    with network.at_bits(bits):
        return network(images).numpy()


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_engines_give_the_fake_quant_logits(
    make, images: Tensor, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    network = make(name, bits=(4,))
    model = onnx_model(network, 4).SerializeToString()
    for engine in ("onnxruntime", "openvino"):
        assert_equal_but_for_ties(run(engine, model, images), network, 4, images)
    monkeypatch.setenv(VARIABLE, "saturating")
    assert_equal_but_for_ties(run("openvino", model, images), network, 4, images)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize(
    ("kernels", "engine"),
    [("native", "onnxruntime"), ("native", "openvino"), ("saturating", "openvino")],
    indirect=["kernels"],
)
def test_codes_inside_an_engine_differ_at_ties_only(
    make, images: Tensor, kernels, engine: str, bits: int
) -> None:
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    network = make(bits=(bits,))
    ours, theirs = fake_quant_codes(network, bits, images), engine_codes(network, bits, images, engine)
    assert ours.keys() == theirs.keys() == set(network.layers())
    ties = near_ties(network, bits, images)
    untied = ~np.any(list(ties.values()), axis=0)
    assert untied.sum() >= len(images) / 3
    for layer, codes in ours.items():
        np.testing.assert_array_equal(theirs[layer][untied], codes[untied], layer)
    # a code on a tie that goes the other way is worth up to two of the fine 8-bit steps further on
    found = step_differences(ours, theirs)
    assert max(d.largest for d in found) <= (1 if bits == 2 else 2)


def test_the_graph_holds_bytes_and_the_metadata_say_what_it_is(make, tmp_path: Path) -> None:
    network = make(bits=(2, 4))
    report = export_onnx(network, tmp_path / "four.onnx", bits=4)
    assert report["block"] == "integer w4a4"
    assert report["stem"] == "integer w8a8, float without VNNI"
    model = onnx.load(tmp_path / "four.onnx")
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 5
    assert kinds.count("Clip") == 3  # first and last layer fill their bytes
    assert "BatchNormalization" not in kinds
    about = json.loads(model.metadata_props[0].value)
    assert model.metadata_props[0].key == METADATA
    assert (about["bits"], about["info"]["image_size"]) == (4, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["four.onnx"]


def test_modes_with_layers_of_their_own_and_weights_only(make, images: Tensor) -> None:
    network = make(bits=(2, 8, "w4a32"))
    for bits in ({"block": 2, "stem": 8, "depthwise": 8, "point": 8, "head": 8}, "w4a32"):
        got = run("onnxruntime", onnx_model(network, bits).SerializeToString(), images)
        np.testing.assert_allclose(got, logits(network, bits, images), atol=0.05)


def test_int4_storage_halves_the_weights_and_keeps_the_result(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 1)
    )
    network = quantizable.quantize(model, [4]).eval()
    images = torch.randn(4, 3, 8, 8)
    network.calibrate([images])
    paths = tmp_path / "int8.onnx", tmp_path / "int4.onnx"
    for path, storage in zip(paths, ("int8", "int4"), strict=True):
        export_onnx(network, path, 4, input_size=(3, 8, 8), weight_storage=storage)
    saved = paths[0].stat().st_size - paths[1].stat().st_size
    assert abs(saved - 64 * 64 * 9 / 2) < 200
    got = [run("onnxruntime", path.read_bytes(), images) for path in paths]
    np.testing.assert_allclose(got[0], got[1], atol=1e-4)


class Quant(OpRun):
    """QONNX's Quant as its specification words it, in numpy."""

    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale, zero_point, bits, signed=None, narrow=None, rounding_mode=None):
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        codes = np.clip(np.round(x / scale + zero_point), low, high)
        return (((codes - zero_point) * scale).astype(np.float32),)


@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "dorefa", "nested"])
def test_qonnx_graph_gives_the_fake_quant_logits(make, images: Tensor, name: str) -> None:
    network = make(name, bits=(3,))
    model = onnx_model(network, 3, style="qonnx")
    assert {node.op_type for node in model.graph.node}.isdisjoint({"QuantizeLinear", "Clip"})
    (got,) = ReferenceEvaluator(model, new_ops=[Quant]).run(None, {"image": images.numpy()})
    assert_equal_but_for_ties(got, network, 3, images)


class FixedBatch(nn.Module):
    """``len`` of a tensor is a number to the tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.reshape(len(x), -1)).relu())


def test_a_network_that_would_lose_its_integers_is_refused() -> None:
    network = quantizable.quantize(FixedBatch(), [8]).eval()
    network.calibrate([torch.randn(4, 1, 2, 2)])
    with pytest.raises(ValueError, match="cannot be traced for batches of any size"):
        onnx_model(network, 8, input_size=(1, 2, 2))


def test_bad_input_is_refused_before_work(make, tmp_path: Path) -> None:
    network = make(bits=(4, "w16a16"))
    with pytest.raises(ValueError, match="no mode 3; it has 4, 16"):
        export_onnx(network, tmp_path / "a.onnx", bits=3)
    with pytest.raises(ValueError, match="style 'qqdq' is unknown; choose from qdq, qonnx"):
        export_onnx(network, tmp_path / "a.onnx", bits=4, style="qqdq")
    with pytest.raises(ValueError, match="codes of up to 8 bits"):
        export_onnx(network, tmp_path / "a.onnx", bits=16)
    with pytest.raises(FileNotFoundError, match="no folder"):
        export_onnx(network, tmp_path / "missing" / "a.onnx", bits=4)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export_onnx(network, tmp_path, bits=4)
    blank = quantizable.quantize(nn.Sequential(nn.Conv2d(3, 4, 3)), [4])
    with pytest.raises(ValueError, match="calibrate"):
        export_onnx(blank, tmp_path / "a.onnx", bits=4, input_size=(3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"quantizable\[deploy\]"):
        export_onnx(make(bits=(4,)), tmp_path / "a.onnx", bits=4)
