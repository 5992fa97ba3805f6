"""Golden samples: engines that answer otherwise are refused, and so are files with one wrong byte."""

import base64
import hashlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import quantizable
import quantizable.storage.load
import quantizable.storage.qz
from quantizable.deploy import Session, engines, export_onnx, norm_folding, save_qz
from quantizable.deploy import session as session_module
from quantizable.deploy.openvino_format import export_openvino
from quantizable.storage.golden import (
    ALLOWED,
    CANDIDATES,
    COLUMNS,
    COUNT,
    Golden,
    columns,
    deviations,
    golden,
    pattern,
    patterns,
)
from quantizable.storage.load import open_qz
from quantizable.storage.qz import read_qz
from quantizable.storage.rounding_noise import NOISE, NOISE_OF_FUNCTIONS, rounding_noise
from tests.deploy.reuse import NormBehindAddition, OnceWithoutNorm, OneLayerTwoNorms, OneNormBehindTwo
from tests.deploy.test_norm_folding import reusing
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
    assert len(str(samples.plain())) < 8000
    for bits in ("2", "4", "8"):
        images = samples.images(bits)
        assert images.shape == (COUNT, *SIZE)
        assert len(np.unique(images, axis=0)) == COUNT
        with network.at_bits(bits), torch.no_grad():
            answers = network(torch.from_numpy(images)).numpy()
        assert samples.check(bits, lambda _, given=answers: given) is None
        assert (deviations(answers, stored(samples, bits)) < 1e-6).all()
        assert min(samples.tolerances[bits]) >= 1e-3


@pytest.mark.parametrize("bits", [2, 8])
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
    export_openvino(network, tmp_path / "m.xml", bits=8)
    where_a_weight_starts = (tmp_path / "m.xml").read_bytes().index(b'offset="') + 8
    flipped(tmp_path / "m.xml", where_a_weight_starts)
    with pytest.raises(ValueError, match=r"checksum does not fit|truncated") as refused:
        Session(tmp_path / "m.xml", "openvino")
    assert "\n" not in str(refused.value)


def test_two_exports_are_the_same_bytes(saved, tmp_path: Path, exported_anew) -> None:
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


def stored(samples: Golden, mode: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(samples.answers[mode]), np.float32).reshape(COUNT, -1)


def test_a_tie_of_one_input_is_forgiven_and_a_kernel_that_fails_some_is_not(saved) -> None:
    """Without VNNI, two 4-bit networks had three of eight answers right and five off by up to 106 %."""
    samples = Golden.read(open_qz(saved[1])[1]["golden"])
    expected = stored(samples, "4")
    for off in range(COUNT + 1):
        found = expected.copy()
        found[:off] += 0.05 * np.abs(expected).max()
        assert (samples.check("4", lambda _, given=found: given) is None) == (off <= ALLOWED), off


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_is_refused(saved, value: float) -> None:
    samples = Golden.read(open_qz(saved[1])[1]["golden"])
    assert "8 of 8" in samples.check("8", lambda x: np.full((COUNT, 5), value, np.float32))
    assert "another shape" in samples.check("8", lambda x: np.zeros((COUNT, 4), np.float32))


def test_deviations_are_relative_to_the_largest_answer() -> None:
    expected = np.array([[1.0, -4.0], [0.0, 2.0]])
    np.testing.assert_allclose(deviations(np.add(expected, [[0, 0.2], [-0.4, 0]]), expected), [0.05, 0.1])
    assert deviations(np.zeros((2, 2)), np.zeros((2, 2))).tolist() == [0, 0]


def test_the_inputs_are_those_of_every_machine() -> None:
    """SHAKE-256 of the number, cell by cell, each repeated; against the definition in plain Python."""
    for number, cells in ((0, 8), (1, 2)):
        drawn = hashlib.shake_256(f"golden sample {number}".encode()).digest(3 * cells * cells)
        side = -(-20 // cells)
        for channel, row, column in ((0, 0, 0), (1, 7, 19), (2, 15, 4)):
            code = drawn[channel * cells * cells + row // side * cells + column // side]
            assert pattern(number, (3, 20, 20))[channel, row, column] == code
    low, high = patterns([0], (3, 64, 64), (-1.0, 3.0)).min(), patterns([0], (3, 64, 64), (-1.0, 3.0)).max()
    assert -1 <= low < -0.9
    assert 2.9 < high <= 3


def test_the_inputs_span_what_the_network_was_calibrated_for(make: Callable) -> None:
    raw = torch.rand(16, *SIZE) * 255
    network = make(bits=(4,))
    network.calibrate([raw])
    low, high = golden(network, {"4": 4}, SIZE).span
    assert low == 0
    assert 150 < high < 400


def test_of_many_inputs_the_calmest_are_taken(saved) -> None:
    network = saved[0]
    samples = golden(network, {"4": 4}, SIZE)
    everything = torch.from_numpy(patterns(range(CANDIDATES), SIZE, samples.span))
    with network.at_bits(4), torch.no_grad():
        exact = network(everything).numpy()
        moved = np.zeros(CANDIDATES)
        for seed in range(2, 8):  # draws that the choice has not seen
            with rounding_noise(network.model, seed=seed):
                moved = np.maximum(moved, deviations(network(everything).numpy(), exact))
    assert moved[samples.inputs["4"]].mean() <= moved.mean()


def test_what_engines_compute_in_their_own_way_may_be_off_further(make: Callable, monkeypatch) -> None:
    """OpenVINO's normalization was off by 1e-5 where its sums are by 4e-7."""
    amounts = []

    def noted(model: torch.nn.Module, amount: float, **options: int):
        amounts.append(amount)
        return rounding_noise(model, amount, **options)

    monkeypatch.setattr("quantizable.storage.golden.rounding_noise", noted)
    network = make(bits=(4,))
    golden(network, {"4": 4}, SIZE)
    assert set(amounts) == {NOISE}
    amounts.clear()
    forward = type(network.model).forward
    network.model.forward = lambda x: torch.nn.functional.layer_norm(forward(network.model, x), (5,))
    golden(network, {"4": 4}, SIZE)
    assert set(amounts) == {NOISE_OF_FUNCTIONS}


def test_an_older_file_is_compared_with_its_own_integers(saved, tmp_path: Path, monkeypatch, caplog) -> None:
    """A ``.qz`` of format 1 without samples: the loaded network answers, and a wrong engine is refused."""
    monkeypatch.setattr(quantizable.storage.qz, "example_inputs", _unknown_size)
    architecture = {"model": "small", "num_classes": 5, "model_options": {}}
    save_qz(saved[0], tmp_path / "old.qz", architecture=architecture)
    assert "golden" not in open_qz(tmp_path / "old.qz")[1]
    with caplog.at_level(logging.WARNING):
        Session(tmp_path / "old.qz", "onnxruntime", 4)
    assert len([r for r in caplog.records if "holds no golden samples" in r.message]) == 1
    monkeypatch.setattr(
        session_module, "compile_onnxruntime", lambda *_: lambda x: np.ones((len(x), 5), "f4")
    )
    with pytest.raises(RuntimeError, match="does not compute what"):
        Session(tmp_path / "old.qz", "onnxruntime", 4)


def test_samples_of_another_version_are_not_read() -> None:
    assert Golden.read(None) is None
    assert Golden.read({"cells": "", "size": [3, 8, 8], "answers": {}, "tolerances": {}}) is None


def _unknown_size(*_: object) -> None:
    raise ValueError("not known")


def test_the_shipped_file_carries_samples_of_every_mode() -> None:
    about, _ = read_qz(Path(__file__).parents[2] / "checkpoints/cifar10_resnet20.qz")
    samples = Golden.read(about["golden"])
    assert samples is not None
    assert list(samples.answers) == about["modes"] == ["2", "4", "8"]


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


def fold_by_the_first_call(norm: torch.nn.Module, calls: dict) -> torch.nn.Module | None:
    """How norms were folded once: into the layer in front of their first call, whatever else uses either."""
    product = norm_folding.product_before(calls[norm][0])
    return next((layer for layer, made in calls.items() if product in made), None)


@pytest.mark.parametrize("kind", [OneNormBehindTwo, OneLayerTwoNorms, OnceWithoutNorm, NormBehindAddition])
def test_an_export_that_folds_what_is_used_twice_is_refused(kind, tmp_path: Path, monkeypatch) -> None:
    network, _ = reusing(kind)
    export_onnx(network, tmp_path / "right.onnx", 8, input_size=(3, 8, 8))
    Session(tmp_path / "right.onnx")
    monkeypatch.setattr(norm_folding, "layer_before", fold_by_the_first_call)
    export_onnx(network, tmp_path / "wrong.onnx", 8, input_size=(3, 8, 8))
    with pytest.raises(RuntimeError, match="does not compute what"):
        Session(tmp_path / "wrong.onnx")
