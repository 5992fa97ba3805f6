"""The three commands, from the command line's words to what is printed and written."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import quantizable
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy import Guard, save_qz
from quantizable.deploy.command_cost import read_accuracies
from quantizable.deploy.command_export import show
from quantizable.deploy.processor import exact_kernels
from quantizable.storage.input_files import find_images

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``.qz`` file of a small network with random weights, and three pictures."""
    torch.manual_seed(0)
    network = quantizable.quantize(timm.create_model("patch_cnn", in_chans=3, num_classes=10), [2, 4]).eval()
    network.calibrate([torch.randn(4, 3, 32, 32)])
    network.info = {
        "in_chans": 3, "image_size": 32, "mean": [0.0] * 3, "std": [1.0] * 3,
        "crop_pct": 1.0, "interpolation": "bilinear", "class_names": [f"class{i}" for i in range(10)],
        "model": "patch_cnn", "num_classes": 10, "model_options": {"in_chans": 3},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("models")
    save_qz(network, folder / "model.qz")
    (folder / "pictures").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    return folder


def test_predict_takes_files_folders_globs_and_standard_input(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = folder / "pictures"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures / '0.png'}\n\n"))
    outputs = []
    for words in ([str(pictures)], [str(pictures / "*.png")], [str(pictures / "0.png")], ["-"]):
        assert main(["predict", str(folder / "model.qz"), *words, "--bits", "2", "--json"]) == 0
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 3
    assert outputs[2] == outputs[3] == outputs[0][:1]
    first = outputs[0][0]
    assert (first["bits"], len(first["top5"])) == ("2", 5)
    network = quantizable.load(folder / "model.qz")
    network.set_bits(2)
    with Image.open(pictures / "0.png") as image:  # 40 x 50: the short side to 32, then the middle
        resized = image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        probabilities = network(pixels).softmax(1)[0]
    assert first["top5"][0]["index"] == probabilities.argmax()
    assert first["top5"][0]["probability"] == pytest.approx(float(probabilities.max()), rel=0.05)
    assert main(["predict", str(folder / "model.qz"), str(pictures / "0.png")]) == 0
    assert "0.png: class" in capsys.readouterr().out


def test_predict_with_a_guard_says_which_mode_answered(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["predict", str(folder / "model.qz"), str(folder / "pictures"), "--json"]
    answers = {}
    for name, threshold in (("never", 2.0), ("always", 0.0)):  # 1 - margin is in [0, 1]
        Guard(2, 4, threshold).save(folder / "guard.json")
        assert main([*words, "--guard", str(folder / "guard.json")]) == 0
        answers[name] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["bits"] for one in answers["never"]] == ["2"] * 3
    assert [one["bits"] for one in answers["always"]] == ["4"] * 3
    assert main([*words, "--bits", "4"]) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(answers["always"], alone, strict=True):
        assert one["top5"][0]["index"] == other["top5"][0]["index"]
        assert one["top5"][0]["probability"] == pytest.approx(other["top5"][0]["probability"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "there is no image nothing.png"),
        (["model.qz"], "is no image that can be read"),
        (["bomb.png"], "bomb.png is no image that can be read"),
        (["depth.tif"], "depth.tif holds numbers of kind F"),
        (["pictures", "--bits", "8"], "no mode 8; it has 2, 4"),
        (["pictures", "--batch", "0"], "--batch is 0"),
        (["pictures", "--threads", "0"], "--threads is 0"),
        (["pictures", "--bits", "no.yaml"], "predict runs a mode and no file such as no.yaml"),
        (["pictures", "--bits", "2", "--guard", "guard.json"], "leave --bits out"),
    ],
)
def test_predict_refuses_bad_input_in_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Image.new("1", (200, 200)).save("bomb.png")
    Image.new("F", (40, 50)).save("depth.tif")
    assert main(["predict", "model.qz", *words, "--engine", "torch"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_export_writes_what_was_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    words = ["export", str(folder / "model.qz"), "--bits", "2", "--format", "qz,onnx,openvino"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"model.qz", "model_2.onnx", "model_2.xml", "model_2.bin"}
    assert "mode 2: 5 layers on integers" in capsys.readouterr().out
    images = torch.randn(4, 3, 32, 32)
    from_onnx = quantizable.deploy.Session(tmp_path / "model_2.onnx", "openvino")(images)
    np.testing.assert_allclose(
        from_onnx, quantizable.deploy.Session(tmp_path / "model.qz", "openvino")(images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "tflite"], "format 'tflite' is unknown; choose from qz, onnx, openvino"),
        (["--bits", "3"], "no mode 3; it has 2, 4"),
        (["--format", "onnx,openvino", "--style", "qonnx"], "--format onnx alone"),
        (["--format", "onnx", "--style", "qonnx", "--weights", "int4"], "with neither --weights"),
        (["--format", "onnx, openvino", "--style", "qonnx"], "--format onnx alone"),
        (["--style", "qonnx"], "--style qonnx is for ONNX and OpenVINO files; add --format onnx"),
        (["--weights", "int4"], "--weights int4 is for ONNX and OpenVINO files"),
        (["--layers"], "--layers is for ONNX and OpenVINO files"),
    ],
)
def test_export_refuses_bad_input_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(["export", str(folder / "model.qz"), "--output", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_export_checks_everything_before_it_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = (folder / "model.qz").read_bytes()
    assert main(["export", str(folder / "model.qz"), "--bits", "2"]) == 2  # would leave mode 2 alone of both
    assert "would be replaced by its own export" in capsys.readouterr().err
    assert (folder / "model.qz").read_bytes() == before
    assert main(["export", str(folder / "model.qz"), "--output", str(folder / "model.qz")]) == 2
    assert "model.qz is a file; give the name of a folder" in capsys.readouterr().err
    assert main(["export", str(folder / "model.qz"), "--output", "/proc/out"]) == 2
    assert "cannot write to /proc/out" in capsys.readouterr().err
    network = quantizable.quantize(timm.create_model("resnet20", num_classes=10), [4, 16]).eval()
    network.calibrate([torch.randn(4, 3, 32, 32)])
    save_qz(network, tmp_path / "wide.qz")
    words = ["export", str(tmp_path / "wide.qz"), "--format", "qz,onnx", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "mode 16 has codes of more than 8 bits, which only .qz files hold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    network = quantizable.quantize(timm.create_model("resnet20", num_classes=10), [4], residual=8).eval()
    network.calibrate([torch.randn(4, 3, 32, 32)])
    network.info = {"data": "fake", "image_size": 32, "in_chans": 3, "num_classes": 10}
    save_qz(network, tmp_path / "added.qz")
    words = ["export", str(tmp_path / "added.qz"), "--format", "qz,onnx", "--residual", "int8"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "its additions are integer already" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_of_float_weights_to_qz_leaves_no_folder(
    calibrated: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = calibrated("resnet20", [4, 32], Fake(size=8, batch_size=4))
    words = ["export", str(checkpoint), "--bits", "4,32", "--format", "qz", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "mode 32 keeps float weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_show_counts_the_bytes_of_each_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, size in (("m.onnx", 1000), ("m.xml", 20), ("m.bin", 3)):
        (tmp_path / name).write_bytes(bytes(size))
    reports = {"4": {"conv": "integer w4a4", "norm": "float: LayerNorm has no integer form here"}}
    show([tmp_path / "m.onnx", tmp_path / "m.xml"], reports)
    printed = capsys.readouterr().out
    assert "1,000" in printed
    assert "23 " in printed
    assert "1 x float: LayerNorm" in printed
    show([], reports, each=True)
    assert "norm: float: LayerNorm has no integer form here" in capsys.readouterr().out


def test_cost_writes_tables_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizable.measure.latency.PAUSE", 0.0)
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"modes": {"2": {"top1": 0.8}, "4": {"top1": 0.9}}}))
    network = quantizable.quantize(timm.create_model("resnet20", num_classes=10), [2, 4]).eval()
    network.calibrate([torch.randn(4, 3, 32, 32)])
    save_qz(network, tmp_path / "model.qz")
    words = [
        "cost",
        str(tmp_path / "model.qz"),
        "--engine",
        "onnxruntime",
        "--threads",
        "1",
        "--results",
        str(results),
    ]
    assert main([*words, "--output", str(tmp_path / "out"), "--layers", "--coverage"]) == 0
    printed = capsys.readouterr().out
    assert "100.0% of all products are quantized in mode 2" in printed
    assert "layer3.0.conv1" in printed  # whole, however narrow the terminal
    assert "2,359,296" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "cost.csv").open()))
    assert all(row["float_without_vnni"].isdigit() for row in rows if row["mode"] != "32")
    assert [row["mode"] for row in rows] == ["2", "4"]
    assert [row["top1"] for row in rows] == ["0.8", "0.9"]
    assert float(rows[1]["onnxruntime_ms"]) > 0
    assert (rows[0]["onnxruntime_ms"] == "") == exact_kernels()  # 2 bits run on the kernels of 4
    assert ("onnxruntime: no kernels of fewer than 8 bits, so the time of 2 is" in printed) == exact_kernels()
    # published: 40.8 million multiply-accumulates and 0.27 million parameters
    assert float(rows[0]["macs"]) == pytest.approx(40.8e6, rel=0.02)
    assert float(rows[0]["parameters"]) == pytest.approx(0.27e6, rel=0.02)
    assert len(list(csv.DictReader((tmp_path / "out" / "layers.csv").open()))) == 2 * 20
    assert (tmp_path / "out" / "cost.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--threads 7", "--threads is of a measurement; give --engine"),
        ("--bits found.yaml", "cost counts modes and no file such as found.yaml"),
        ("--engine torch --layer-latency times.json", "give --engine openvino or onnxruntime"),
    ],
)
def test_cost_refuses_bad_words(
    folder: Path, capsys: pytest.CaptureFixture, words: str, message: str
) -> None:
    assert main(["cost", str(folder / "model.qz"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_cost_shows_no_accuracy_of_another_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"modes": {"4": {"top1": 0.9}}, "checkpoint": "run/best.ckpt"}))
    assert read_accuracies(path, tmp_path / "best.qz")["4"]["top1"] == 0.9
    assert read_accuracies(path, tmp_path / "last.ckpt") == {}
    assert read_accuracies(path)["4"]["top1"] == 0.9


def test_pictures_in_a_linked_folder_are_found(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(folder / "pictures", target_is_directory=True)
    assert [path.name for path in find_images([str(tmp_path)])] == ["0.png", "1.png", "2.png"]
