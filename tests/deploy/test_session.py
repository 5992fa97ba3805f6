"""Sessions: the same logits on every engine, and one clear error for bad input."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import quantizable.storage.load
from quantizable.deploy import Guard, Session, export_onnx, save_qz
from quantizable.deploy.fixed_batch import in_batches
from quantizable.deploy.openvino_format import export_openvino
from quantizable.deploy.processor import VARIABLE
from tests.deploy.ties import assert_equal_but_for_ties
from tests.small_net import SIZE, SmallNet

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")


@pytest.fixture
def saved(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A network and its ``.qz`` file, which builds ``SmallNet`` by its name."""
    monkeypatch.setattr(quantizable.storage.load, "create_model", lambda *_args, **_options: SmallNet())
    network = make(bits=(2, 4, 8))
    architecture = {"model": "small", "num_classes": 5, "model_options": {}}
    save_qz(network, tmp_path / "model.qz", architecture=architecture)
    return network, tmp_path / "model.qz"


@pytest.mark.parametrize(
    ("kernels", "engine", "batch"),
    [
        ("native", "torch", 3), ("native", "onnxruntime", None), ("native", "openvino", 3),
        ("saturating", "openvino", None), ("saturating", "onnxruntime", 3),
    ],
    indirect=["kernels"],
)  # fmt: skip
def test_switching_modes_gives_the_networks_logits(
    saved, images: Tensor, kernels, engine: str, batch: int | None
) -> None:
    if engine != "torch":
        pytest.importorskip(engine, reason=f"{engine} is not installed")
    network, path = saved
    session = Session(path, engine, threads=1, batch=batch)
    assert session.bits == "8"
    for bits in (4, 8, 4):
        session.set_bits(bits)
        got = session(images)
        assert got.shape == (16, 5)
        assert_equal_but_for_ties(got, network, bits, images)


def test_a_guard_asks_the_high_mode_where_the_low_one_is_unsure(saved, images: Tensor) -> None:
    _, path = saved
    session = Session(path, "onnxruntime", 2, threads=1)
    rows = {}
    for bits in (4, 8):
        with session.at_bits(bits):
            rows[bits] = torch.from_numpy(session(images)).softmax(1)
    assert session.bits == "2"
    top = rows[4].topk(2, dim=1).values
    doubt = 1 - (top[:, 0] - top[:, 1])
    guard = Guard(4, 8, doubt.median().item())
    answers, unsure = guard.predict(session, images)
    assert torch.equal(unsure, doubt >= doubt.median())
    assert 0 < unsure.sum() < len(images)
    torch.testing.assert_close(answers, torch.where(unsure[:, None], rows[8], rows[4]))
    assert session.bits == "2"
    with pytest.raises(ValueError, match="has no mode 3"):
        Guard(3, 8, 0.5).predict(session, images)


def test_a_mode_is_compiled_once(saved, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = Session(saved[1], "onnxruntime", bits=2)
    session.set_bits(4)
    monkeypatch.setattr(session, "_compile", lambda mode: pytest.fail(f"{mode} is compiled again"))
    session.set_bits(2)
    session.set_bits(4)
    session(images)


def test_an_onnx_file_has_one_mode(saved, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export_onnx(saved[0], tmp_path / "four.onnx", bits=4)
    session = Session(tmp_path / "four.onnx")
    assert session.bits == "4"
    assert session.info["class_names"][0] == "ant"
    np.testing.assert_allclose(session(images), Session(saved[1], bits=4)(images), atol=1e-5)
    with pytest.raises(ValueError, match="no mode 2; it has 4"):
        session.set_bits(2)
    with pytest.raises(ValueError, match="engine 'torch' runs"):
        Session(tmp_path / "four.onnx", "torch")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "four.onnx").read_bytes()[:300])
    with pytest.raises(ValueError, match="truncated, or was not exported by this library"):
        Session(tmp_path / "cut.onnx")


def test_a_mixed_file_and_openvinos_own_run(saved, images: Tensor, kernels, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    mixed = {"*": 8, "block": 2}
    export_onnx(saved[0], tmp_path / "mixed.onnx", mixed)
    named = copy.deepcopy(saved[0])
    named.add_assignment("found", mixed)  # with the same norms
    export_openvino(named, tmp_path / "mixed.xml", "found")
    sessions = [Session(tmp_path / f"mixed.{ending}", "openvino") for ending in ("onnx", "xml")]
    logits = [session(images) for session in sessions]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    for session in sessions:
        assert (session.bits, session.modes, session.input_size) == ("mixed", [], SIZE)
        assert session.info["class_names"][0] == "ant"
        with pytest.raises(ValueError, match="a mode per layer, which cannot be switched"):
            session.set_bits(8)
    for got in logits:
        assert_equal_but_for_ties(got, saved[0], mixed, images)
    with pytest.raises(ValueError, match="choose engine 'openvino'"):
        Session(tmp_path / "mixed.xml", "onnxruntime")
    (tmp_path / "mixed.bin").write_bytes((tmp_path / "mixed.bin").read_bytes()[:-300])
    with pytest.raises(ValueError, match="truncated, or was not exported by this library"):
        Session(tmp_path / "mixed.xml", "openvino")


def test_a_file_that_an_engine_cannot_run_is_refused(saved, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export_onnx(saved[0], tmp_path / "fpga.onnx", bits=4, style="qonnx")
    with pytest.raises(ValueError, match="style qonnx, for FPGA compilers"):
        Session(tmp_path / "fpga.onnx")
    model = onnx.load(tmp_path / "fpga.onnx")
    about = model.metadata_props[0]
    about.value = about.value.replace('"qonnx"', '"qdq"')
    onnx.save(model, tmp_path / "fpga.onnx")
    with pytest.raises(ValueError, match=r"fpga\.onnx was changed or damaged: its checksum does not fit"):
        Session(tmp_path / "fpga.onnx")
    with pytest.raises(ValueError, match=r"onnxruntime cannot run .*fpga\.onnx: .*Quant"):
        Session(tmp_path / "fpga.onnx", verify=False)


def test_bfloat16_images_are_taken(saved, images: Tensor) -> None:
    session = Session(saved[1], "torch")
    np.testing.assert_array_equal(session(images.bfloat16()), session(images.bfloat16().float()))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((1, 3, 9, 9), np.float32),
            r"shape \[1, 3, 9, 9\] do not fit; the network takes \[N, 3, 10, 10\]",
        ),
        (np.zeros((3, 10, 10), np.float32), "do not fit"),
        (np.zeros((0, 3, 10, 10), np.float32), "do not fit"),
        (np.zeros((1, 3, 10, 10), np.uint8), "images are uint8; give floats"),
        (np.full((1, *SIZE), np.nan, np.float32), "NaN or infinite"),
        (np.full((1, *SIZE), 1e300), "NaN or infinite"),
    ],
)
def test_images_of_another_kind_are_refused(saved, array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Session(saved[1], "torch")(array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine 'tensorrt' is unknown; choose from onnxruntime, openvino, torch"),
        ({"engine": "torch", "threads": 0}, "threads is 0; give an integer of at least 1"),
        ({"engine": "torch", "threads": 1.5}, "threads is 1.5; give an integer"),
        ({"engine": "torch", "batch": 0}, "batch is 0"),
        ({"engine": "torch", "batch": "2"}, "batch is '2'; give an integer"),
        ({"engine": "torch", "warmup": -1}, "warmup is -1"),
        ({"engine": "torch", "bits": 3}, "no mode 3; it has 2, 4, 8"),
    ],
)
def test_bad_options_are_refused(saved, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Session(saved[1], **options)


def test_a_missing_engine_names_the_extra(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        ImportError, match=r"engine 'openvino' needs the package openvino.*quantizable\[deploy\]"
    ):
        Session(saved[1], "openvino")


def test_signals_are_handled_after_engines_have_come_and_gone(make: Callable, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    export_onnx(make(bits=(8,)), tmp_path / "model.onnx", 8)
    script = """
import faulthandler, gc, os, pathlib, signal, sys
from quantizable.deploy.engines import compile_openvino
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
model = pathlib.Path(sys.argv[1]).read_bytes()
first, second = (compile_openvino(model, 1, None) for _ in range(2))
for _ in range(2):
    first, second = second, None
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", script, tmp_path / "model.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("exact", [True, False])
def test_a_wrong_word_of_the_variable_blames_no_file(
    saved, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "bogus")
    with pytest.raises(
        ValueError, match=r"^QUANTIZABLE_INTEGER_KERNELS is 'bogus'; give exact or saturating"
    ):
        Session(saved[1], "torch", exact=exact)


def test_the_weights_of_an_openvino_file_are_named(saved, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    for bits in (2, 4):
        export_openvino(saved[0], tmp_path / f"{bits}.xml", bits)
    own = (tmp_path / "4.bin").read_bytes()
    (tmp_path / "4.bin").write_bytes((tmp_path / "2.bin").read_bytes())
    assert len(own) == (tmp_path / "4.bin").stat().st_size  # so that OpenVINO takes them
    with pytest.raises(ValueError, match=r"4\.xml or 4\.bin was changed or damaged: its checksum"):
        Session(tmp_path / "4.xml", "openvino")
    (tmp_path / "4.bin").write_bytes(own[:-8])
    with pytest.raises(ValueError, match=r"4\.xml or 4\.bin is truncated, .* do not belong together"):
        Session(tmp_path / "4.xml", "openvino")
    (tmp_path / "4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*4\.bin, which holds the weights of .*4\.xml"):
        Session(tmp_path / "4.xml", "openvino")


def test_an_output_without_a_batch_axis_is_not_put_together() -> None:
    images = np.ones((5, 3), np.float32)
    assert in_batches(lambda x: x.sum(1), images, 2).tolist() == [3, 3, 3, 3, 3]
    with pytest.raises(ValueError, match="has no batch axis"):
        in_batches(lambda x: x.sum(0), images, 2)
