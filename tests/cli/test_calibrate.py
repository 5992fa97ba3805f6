"""``quantizable calibrate``: from a name or a checkpoint and a folder of images to files with low modes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import quantizable
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.models.create import create_model
from quantizable.storage.preprocessing import preprocessing, read_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with twelve pictures, and float weights of a ResNet-20."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    draw = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(draw.integers(0, 255, (36, 40, 3), np.uint8)).save(f"images/{i:02}.png")
    torch.manual_seed(0)
    torch.save(create_model("resnet20", 10).state_dict(), "weights.th")
    return tmp_path


def test_a_network_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "calibrate resnet20 images --weights weights.th --bits 3,8 --count 8 --format ckpt,qz"
    assert main([*words.split(), "--output", "made"]) == 0
    said = capsys.readouterr().out
    assert "made/model.ckpt" in said
    assert "same answer" in said
    network, integers = quantizable.load("made/model.ckpt"), quantizable.load("made/model.qz")
    assert [mode.name for mode in network.modes] == ["3", "8", "32"]
    assert [mode.name for mode in integers.modes] == ["3", "8"]
    float_network = create_model("resnet20", 10).eval()
    float_network.load_state_dict(torch.load("weights.th", weights_only=True))
    info = preprocessing(network)
    assert (info["image_size"], info["mean"][0]) == (32, 0.485)
    x = read_images(sorted(Path("images").iterdir()), info)
    with torch.no_grad():
        assert torch.equal(network(x), float_network(x))
        for mode in (3, 8):
            network.set_bits(mode)
            integers.set_bits(mode)
            torch.testing.assert_close(integers(x), network(x), rtol=1e-4, atol=1e-4)


def test_reconstruct_and_a_checkpoint(
    calibrated: Callable[..., Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = calibrated("patch_cnn", [4, 32], Fake(size=16, image_size=8, batch_size=8), width=4)
    before = quantizable.load(checkpoint)
    words = ["calibrate", str(checkpoint), "images", "--reconstruct", "--passes", "2", "--output", "made"]
    assert main([*words, "--bits", "3"]) == 0
    assert [path.name for path in Path("made").iterdir()] == ["model.ckpt"], "no progress is left"
    after = quantizable.load("made/model.ckpt")
    assert [mode.name for mode in after.modes] == ["3", "4", "32"]
    assert after.info["data"] == "fake", "evaluate finds the data of training"
    x = read_images(sorted(Path("images").iterdir()), preprocessing(after))
    with torch.no_grad():
        assert torch.equal(after(x), before(x))
    capsys.readouterr()
    assert main(["evaluate", "made/model.ckpt", "--bits", "3"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("resnet20 images --format onnx", "format 'onnx' is unknown; choose from ckpt, qz"),
        ("resnet20 images --count 0", "--count is 0; at least 1 is needed"),
        ("resnet20 images --passes -1", "--passes is -1"),
        ("resnet20 images --bits ,", "--bits names no mode"),
        ("resnet20 images --bits 99", "99 is out of range"),
        ("resnet20 images --weights w.th", "there is no file of weights at w.th"),
        ("missing.ckpt images", "there is no checkpoint missing.ckpt"),
        ("weights.th images --weights weights.th", "--weights goes with the name of a network"),
        ("model.qz images", "there is no file model.qz"),
        ("resnet20 nothing --weights weights.th", "there is no image nothing"),
        ("resnet2 images --weights weights.th", "unknown model 'resnet2': did you mean"),
        ("resnet20 images", "there are no published weights of 'resnet20'"),
        ("resnet20 images --weights weights.th --bits w32a8 --format qz", "no mode has integer weights"),
    ],
)
def test_what_is_refused(words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("resnet20").mkdir(exist_ok=True)  # as --output resnet20 made it: the name is still a network's
    assert main(["calibrate", *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("calibrated/model.ckpt").exists()


def test_a_checkpoint_is_not_replaced_by_what_is_made_of_it(
    here: Path, calibrated: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made = calibrated("lenet5", [4, 32], Fake(size=32, image_size=12, num_classes=4), img_size=12)
    path = Path("own/model.ckpt")
    path.parent.mkdir()
    path.write_bytes(made.read_bytes())
    assert main(["calibrate", str(path), "images", "--bits", "3", "--output", "own"]) == 2
    assert "would be replaced by what is made of it" in capsys.readouterr().err
    assert path.read_bytes() == made.read_bytes()


def test_files_of_two_calibrations_do_not_lie_side_by_side(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = Path("calibrated/model.qz")
    left.parent.mkdir()
    left.write_bytes(b"of an earlier one")
    assert main(["calibrate", "resnet18", "images"]) == 2
    error = capsys.readouterr().err
    assert "model.qz is of an earlier calibration" in error
    assert error.count("\n") == 1
    assert left.read_bytes() == b"of an earlier one"
