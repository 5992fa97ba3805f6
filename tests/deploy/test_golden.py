"""Golden samples: engines that answer otherwise are refused, and so are files with one wrong byte."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import quantizable
import quantizable.storage.load
from quantizable.deploy import Session, engines, export_onnx, save_qz
from quantizable.deploy import session as session_module
from quantizable.deploy.openvino_format import export_openvino
from quantizable.storage.golden import COLUMNS, COUNT, Golden, columns, difference, golden
from quantizable.storage.load import open_qz
from tests.small_net import SIZE, SmallNet

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def saved(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantizable.storage.load, "create_model", lambda *_args, **_options: SmallNet())
    network = make(bits=(2, 4, 8))
    architecture = {"model": "small", "num_classes": 5, "model_options": {}}
    save_qz(network, tmp_path / "model.qz", architecture=architecture)
    return network, tmp_path / "model.qz"


def test_the_samples_are_the_answers_of_training(saved) -> None:
    network, path = saved
    samples = Golden.read(open_qz(path)[1]["golden"])
    assert samples is not None
    assert samples.inputs().shape == (COUNT, *SIZE)
    assert len(str(samples.plain())) < 8000
    for bits in (2, 4, 8):
        with network.at_bits(bits), torch.no_grad():
            found, explained = samples.check(str(bits), lambda x: network(torch.from_numpy(x)).numpy())
        assert found < 1e-6 < 1e-3 <= explained


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_kernel_that_saturates_is_refused(saved, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that cuts large products off: as if the largest weights of the 8-bit layers were smaller."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")

    def saturating(graph: bytes, *_: object) -> engines.Runner:
        model = onnx.load_from_string(graph)
        for held in model.graph.initializer:
            if held.data_type == onnx.TensorProto.INT8:
                held.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held).clip(-64, 64), held.name)
                )
        return engines.compile_onnxruntime(model.SerializeToString(), 1, None)

    monkeypatch.setattr(session_module, "compile_onnxruntime", saturating)
    message = rf"onnxruntime does not compute what .* in mode {bits} on .*verify=False"
    with pytest.raises(RuntimeError, match=message):
        Session(saved[1], "onnxruntime", bits)
    assert Session(saved[1], "onnxruntime", bits, verify=False).bits == str(bits)


def test_without_exactness_a_difference_is_said_and_not_refused(saved, monkeypatch, caplog) -> None:
    monkeypatch.setattr(
        session_module, "compile_onnxruntime", lambda *_: lambda x: np.ones((len(x), 5), "f4")
    )
    with caplog.at_level(logging.WARNING):
        Session(saved[1], "onnxruntime", 4, exact=False)
    assert "does not compute what" in caplog.text


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_that_computes_another_function_is_refused(saved, tmp_path: Path, engine: str) -> None:
    """As a norm folded where it must not be: one bias is another."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    export_onnx(saved[0], tmp_path / "four.onnx", bits=4)
    Session(tmp_path / "four.onnx", engine)
    model = onnx.load(tmp_path / "four.onnx")
    bias = next(i for i in model.graph.initializer if i.name.endswith("block.bias"))
    values = onnx.numpy_helper.to_array(bias)
    bias.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.5) * np.abs(values).max(), bias.name))
    kept = [p for p in model.metadata_props if p.key == "quantizable"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)  # without the digest, as a file of another writer
    onnx.save(model, tmp_path / "four.onnx")
    with pytest.raises(RuntimeError, match="does not compute what"):
        Session(tmp_path / "four.onnx", engine)


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_one_flipped_byte_of_a_weight_is_refused(saved, tmp_path: Path) -> None:
    network, path = saved
    flipped(path, path.stat().st_size - 40)
    with pytest.raises(ValueError, match="checksum does not fit"):
        Session(path, "onnxruntime")
    export_onnx(network, tmp_path / "m.onnx", bits=8)
    weight = network.model.block.weight_quantizer.codes(network.model.block.weight, 8)
    at = (tmp_path / "m.onnx").read_bytes().index(weight.to(torch.int8).numpy().tobytes()[:12])
    flipped(tmp_path / "m.onnx", at + 5)
    with pytest.raises(ValueError, match="checksum does not fit"):
        Session(tmp_path / "m.onnx", "onnxruntime")
    pytest.importorskip("openvino", reason="openvino is not installed")
    export_openvino(network, tmp_path / "m.xml", bits=8)
    Session(tmp_path / "m.xml", "openvino")
    flipped(tmp_path / "m.bin", (tmp_path / "m.bin").stat().st_size // 2)
    with pytest.raises(ValueError, match="checksum does not fit"):
        Session(tmp_path / "m.xml", "openvino")


def test_two_exports_are_the_same_bytes(saved, tmp_path: Path) -> None:
    network, path = saved
    architecture = {"model": "small", "num_classes": 5, "model_options": {}}
    for number in (1, 2):
        save_qz(network, tmp_path / f"{number}.qz", architecture=architecture)
        export_onnx(network, tmp_path / f"{number}.onnx", bits=4)
        if importlib.util.find_spec("openvino"):
            export_openvino(network, tmp_path / f"{number}.xml", bits=4)
    assert (tmp_path / "1.qz").read_bytes() == path.read_bytes()
    for first in tmp_path.glob("1.*"):
        assert first.read_bytes() == first.with_stem("2").read_bytes(), first.suffix


def test_the_folders_of_the_exporter_do_not_travel(saved, tmp_path: Path) -> None:
    """The exporter's stack traces name them; they were half of the file."""
    export_onnx(saved[0], tmp_path / "four.onnx", bits=4)
    here = str(Path(quantizable.__file__).parents[1]).encode()
    assert here not in (tmp_path / "four.onnx").read_bytes()
    assert b".py" not in (tmp_path / "four.onnx").read_bytes()


def test_a_tie_of_one_input_is_forgiven_and_a_shift_of_all_is_not() -> None:
    expected = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)
    tie = expected.copy()
    tie[3] += 1
    assert difference(tie, expected) == 0
    assert difference(expected + 0.1, expected) == pytest.approx(0.1 / np.abs(expected).max(), rel=1e-5)
    assert difference(np.full_like(expected, np.nan), expected) == float("inf")


def test_large_outputs_are_kept_in_part() -> None:
    kept = columns([np.arange(COUNT * 1000.0).reshape(COUNT, 1000), np.zeros(3)])
    assert kept.shape == (COUNT, COLUMNS)
    assert kept[0, 0] == 0
    assert kept[0, -1] == 999


def test_samples_leave_the_network_as_it_was(saved) -> None:
    network = saved[0]
    network.train()
    network.set_bits(2)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    golden(network, {"4": 4}, SIZE)
    assert network.training
    assert network.bits == 2
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
