"""The examples run as they are, on one core and without a network, and do what they say."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
MODES = ["2", "4", "8", "32"]


def run(name: str, *words: str) -> Any:
    """What the example's ``main`` returns."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](words)


def test_every_example_is_run_here() -> None:
    tested = {"pretrained_timm", "custom_module", "segmentation", "detection", "recurrent", "deployment"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_a_timm_network_comes_closer_to_itself_with_every_bit(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for number in range(4):  # pictures of the user's own, of any size
        pixels = torch.randint(256, (50 + number, 60, 3), dtype=torch.uint8, generator=draw)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    errors = run("pretrained_timm", "--images", str(tmp_path))
    assert list(errors) == MODES
    assert errors["2"] > errors["4"] > errors["8"] > errors["32"] == 0


@pytest.mark.slow
def test_a_custom_task_is_learned_in_every_mode() -> None:
    explained = run("custom_module")
    assert list(explained) == MODES
    assert min(explained.values()) > 0.1, "0 is what the mean of all patients explains"


@pytest.mark.slow
def test_segmentation_is_learned_in_every_mode() -> None:
    iou = run("segmentation")
    assert list(iou) == MODES
    assert min(iou.values()) > 0.6, "a network that says ground everywhere has less than 0.5"


@pytest.mark.slow
def test_detection_runs_in_every_mode() -> None:
    found = run("detection", "--epochs", "1", "--pictures", "16")  # to learn takes ten times as long
    assert list(found) == MODES
    assert all(0 <= share <= 1 for share in found.values())


@pytest.mark.slow
def test_sequences_are_read_in_every_mode_and_on_an_engine() -> None:
    pytest.importorskip("onnxruntime")
    found = run("recurrent", "--epochs", "4")
    assert list(found) == [*MODES, "onnxruntime"]
    assert min(found.values()) > 0.3, "0.1 is what chance gets right"
    assert found["onnxruntime"] > 0.95  # an engine may round a tie the other way


@pytest.mark.slow
def test_deployed_files_give_the_classes_of_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    agreement = run("deployment", "--output", str(tmp_path))
    assert len(agreement) == 3
    assert min(agreement.values()) > 0.9  # engines may round a tie the other way, which moves a class seldom
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.qz", "model_2.onnx"]
