"""What `export` says of each engine at hand: it agrees, computes something else, or cannot run the file."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import quantizable
import quantizable.storage.load
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy import Session, engine_check, engines, export_onnx, save_qz
from quantizable.deploy import session as session_module
from quantizable.deploy.command_export import check
from quantizable.deploy.engine_check import AGREES, ENGINES, check_engines
from quantizable.deploy.openvino_format import export_openvino
from tests.small_net import SIZE, SmallNet, trained_like

for needed in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(needed, reason="the deploy extra is not installed")


@pytest.fixture
def network(make: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantizable.storage.load, "create_model", lambda *_args, **_options: SmallNet())
    return make(bits=(4, 8))


def test_every_kind_of_file_is_run_on_every_engine_that_reads_it(network, tmp_path: Path) -> None:
    save_qz(
        network, tmp_path / "m.qz", architecture={"model": "small", "num_classes": 5, "model_options": {}}
    )
    export_onnx(network, tmp_path / "m.onnx", bits=4)
    export_openvino(network, tmp_path / "m.xml", bits=4)
    assert check_engines(tmp_path / "m.qz", ["4", "8"]) == dict.fromkeys(ENGINES, AGREES)
    assert check_engines(tmp_path / "m.onnx") == dict.fromkeys(ENGINES, AGREES)
    assert check_engines(tmp_path / "m.xml") == {"openvino": AGREES}


def test_an_engine_that_is_not_installed_is_left_out(network, tmp_path: Path, monkeypatch) -> None:
    export_onnx(network, tmp_path / "m.onnx", bits=4)
    monkeypatch.setattr(engine_check.importlib.util, "find_spec", lambda name: name == "onnxruntime" or None)
    assert check_engines(tmp_path / "m.onnx") == {"onnxruntime": AGREES}


def test_a_wrong_engine_is_said_and_ends_the_command_with_1(network, tmp_path, monkeypatch, capsys) -> None:
    save_qz(
        network, tmp_path / "m.qz", architecture={"model": "small", "num_classes": 5, "model_options": {}}
    )
    right = engines.compile_onnxruntime
    monkeypatch.setattr(
        session_module, "compile_onnxruntime", lambda *given: lambda x: right(*given)(x) * np.float32(1.1)
    )
    assert check([tmp_path / "m.qz"], ["4", "8"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("m.qz on onnxruntime: mode 4: disagrees: onnxruntime does not compute what ")
    assert f"{tmp_path / 'm.qz'} promises" in printed[0]
    assert printed[1] == "m.qz on openvino: agrees"


def test_a_file_with_int8_residuals_may_differ(
    network, images, tmp_path, monkeypatch, capsys, caplog
) -> None:
    export_onnx(network, tmp_path / "m.onnx", bits=4, residual_images=images)
    monkeypatch.setattr(
        session_module, "compile_openvino", lambda *_, **__: lambda x: np.ones((len(x), 5), np.float32)
    )
    with caplog.at_level(logging.WARNING):
        assert check([tmp_path / "m.onnx"], []) == 0
    assert "m.onnx on openvino: differs, as it may: the answers to 8 of 8" in capsys.readouterr().out
    assert "its residual additions are int8" in caplog.text


def test_an_engine_that_refuses_a_free_batch_size_gets_a_fixed_one(network, tmp_path, monkeypatch) -> None:
    """As OpenVINO did with LeViT."""
    export_onnx(network, tmp_path / "m.onnx", bits=4)
    right = engines.compile_openvino

    def refuses(graph, threads, shape, exact, **options):
        if shape is None:
            raise RuntimeError("the shape\ncannot be inferred")
        return right(graph, threads, shape, exact, **options)

    monkeypatch.setattr(session_module, "compile_openvino", refuses)
    verdict = check_engines(tmp_path / "m.onnx")["openvino"]
    assert verdict == "agrees, with a fixed batch size only (batch=1)"
    images = torch.randn(3, *SIZE)
    session = Session(tmp_path / "m.onnx", "openvino")
    with network.at_bits(4), torch.no_grad():
        np.testing.assert_allclose(session(images), network(images), atol=1e-5)


def test_where_integer_passes_change_answers_openvino_runs_without_them(
    network, images, tmp_path: Path, monkeypatch, caplog
) -> None:
    export_onnx(network, tmp_path / "m.onnx", bits=4)
    right = engines.compile_openvino

    def wrong_in_integers(*args, integers: bool) -> Callable[[np.ndarray], np.ndarray]:
        run = right(*args, integers=integers)
        return lambda inputs: run(inputs) * (1 if integers is False else 1.5)

    monkeypatch.setattr(session_module, "compile_openvino", wrong_in_integers)
    with caplog.at_level(logging.WARNING):
        session = Session(tmp_path / "m.onnx", "openvino")
    assert "integer passes change the answers of" in caplog.text
    with network.at_bits(4), torch.no_grad():
        np.testing.assert_allclose(session(images), network(images), atol=1e-5)


def test_what_cannot_be_run_is_said_in_one_line(network, tmp_path: Path, monkeypatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such\noperator")

    export_onnx(network, tmp_path / "m.onnx", bits=4)
    monkeypatch.setattr(session_module, "compile_openvino", refuses)
    verdict = check_engines(tmp_path / "m.onnx")["openvino"]
    assert verdict == f"cannot run it: openvino cannot run {tmp_path / 'm.onnx'}: no such operator"


def test_the_float_mode_is_exported_with_one_line_and_a_checkpoint_predicts(
    calibrated: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = calibrated("resnet20", [4, 32], Fake(size=8, batch_size=4))
    words = ["--bits", "32", "--format", "onnx", "--output", str(tmp_path)]
    assert main(["export", str(checkpoint), *words]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if "mode 32" in line] == [
        "mode 32: float, no layer on integers"
    ]
    assert "no integer form" not in printed
    assert "_32.onnx on onnxruntime: agrees" in printed
    picture = tmp_path / "0.ppm"
    picture.write_bytes(b"P6 32 32 255\n" + bytes(range(256)) * 12)
    for bits, mode in ((["--bits", "4"], "4"), ([], "32")):
        assert main(["predict", str(checkpoint), str(picture), "--json", "--engine", "torch", *bits]) == 0
        assert f'"bits": "{mode}"' in capsys.readouterr().out
    assert main(["predict", str(checkpoint), str(picture), "--bits", "3"]) == 2
    assert "no mode 3" in capsys.readouterr().err


# what does not run, or answers otherwise, by network and engine: nothing at present
EXCEPTIONS: dict[tuple[str, str], str] = {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_convnext2", "test_mambaout", "test_nfnet"])
def test_families_run_on_every_engine(name: str, tmp_path: Path) -> None:
    """Small networks of timm's; further families are in test_networks.py."""
    torch.manual_seed(0)
    network = quantizable.quantize(trained_like(timm.create_model(name, num_classes=10)), [4]).eval()
    network.calibrate([torch.randn(4, 3, 64, 64)])
    export_onnx(network, tmp_path / "m.onnx", 4, input_size=(3, 64, 64))
    verdicts = check_engines(tmp_path / "m.onnx")
    assert verdicts == {engine: EXCEPTIONS.get((name, engine), AGREES) for engine in ENGINES}
