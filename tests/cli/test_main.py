"""The command ``quantizable``: its subcommands, its exit codes, one line for what a user can mend."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import quantizable
from quantizable import cli
from quantizable.bits import BitMode
from quantizable.data import DATAMODULES, Fake
from quantizable.interface.choices import DATA, LOWEST_BITS, METHODS
from quantizable.quantizers import QUANTIZERS
from quantizable.search.methods import METHODS as SEARCHES
from tests.tiny import REPOSITORY

SHIPPED = REPOSITORY / "checkpoints" / "cifar10_resnet20.qz"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, expected in (("--version", quantizable.__version__), ("--help", "evaluate")):
        with pytest.raises(SystemExit) as stop:
            cli.main([flag])
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "train"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: quantizable {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["evalute"], "command 'evalute' is unknown; choose from train, evaluate, compare"),
        (["evalute"], "did you mean 'evaluate'?"),
        (["search", "sensitvity"], "did you mean 'sensitivity'?"),
        (["evaluate"], "required: checkpoint"),
        (
            ["evaluate", "a.ckpt", "--set", "tset"],
            "--set 'tset' is unknown; choose from test, val; did you mean",
        ),
        (["evaluate", "a.ckpt", "--bitz", "4"], "unrecognized arguments: --bitz 4; did you mean --bits?"),
        (["search", "bits", "a.ckpt", "--objectiv3", "x"], "did you mean --objective?"),
        (["verify", "a.ckpt", "--modes", "4"], "unrecognized arguments: --modes 4"),
    ],
)
def test_wrong_words_end_with_usage_and_the_nearest_right_one(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "usage: quantizable" in error
    assert said in error


@pytest.fixture
def files(calibrated: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a checkpoint of modes 2, w4a8 and 32, bytes that are none, and a folder of pictures."""
    checkpoint = calibrated("patch_cnn", [2, "w4a8", 32], Fake(size=16, image_size=8, batch_size=8), width=4)
    (tmp_path / "run").mkdir()
    checkpoint.rename(tmp_path / "run" / "best.ckpt")
    (tmp_path / "notes.ckpt").write_text("no checkpoint")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").touch()
    for name in ("README.md", "README.npz", "text.qz", "alone.xml"):
        (tmp_path / name).write_text("# No file of ours\n")
    (tmp_path / "cut.qz").write_bytes(SHIPPED.read_bytes()[:-1])
    changed = bytearray(SHIPPED.read_bytes())
    changed[-9] ^= 1
    (tmp_path / "changed.qz").write_bytes(changed)
    save_file({"x": torch.ones(2)}, tmp_path / "other.qz")
    torch.save({"x": torch.ones(2)}, tmp_path / "float.ckpt")
    (tmp_path / "guard.json").write_text('{"low": 3, "high": 8, "threshold": 0.5}')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate run/bset.ckpt", "there is no checkpoint run/bset.ckpt; did you mean run/best.ckpt?"),
        ("evaluate rnu/best.ckpt", "there is no checkpoint rnu/best.ckpt; did you mean run/best.ckpt?"),
        ("evaluate missing.ckpt", "there is no checkpoint missing.ckpt; training writes checkpoints/<run>/"),
        ("evaluate run", "run is a folder; did you mean run/best.ckpt?"),
        ("evaluate notes.ckpt", "notes.ckpt is truncated or no checkpoint"),
        ("evaluate run/best.ckpt --bits 2,4", "run/best.ckpt has no mode 4; it has 2, w4a8, 32"),
        ("evaluate run/best.ckpt --bits 99", "99 is out of range"),
        ("evaluate run/best.ckpt --bits ,", "--bits names no mode"),
        ("evaluate run/best.ckpt --bits found.yaml", "there is no assignment file found.yaml"),
        ("evaluate run/best.ckpt --norm-batches -1", "--norm-batches is -1"),
        ("evaluate run/best.ckpt data=cifar", "data set 'cifar' is unknown; choose from digits, "),
        ("evaluate run/best.ckpt data=cifar", "did you mean 'cifar10'?"),
        ("evaluate run/best.ckpt data=folder data.root=nowhere", "there is no folder nowhere"),
        ("evaluate run/best.ckpt data=folder data.root=flat", "flat holds files and no folders"),
        ("evaluate run/best.ckpt --bits 2 data=samson data.file=x.mat", "there is no scene x.mat"),
        ("cost run/best.ckpt --engine opnvino", "engine 'opnvino' is unknown; choose from onnxruntime, "),
        ("cost run/best.ckpt --engine opnvino", "did you mean 'openvino'?"),
        ("cost run/best.ckpt --layer-latency x.json", "give --engine openvino or onnxruntime"),
        (
            "export run/best.ckpt --format onxx",
            "format 'onxx' is unknown; choose from qz, onnx, openvino; did",
        ),
        ("export run/best.ckpt --bits 4", "has no mode 4; it has 2, w4a8, 32"),
        ("assess run/best.ckpt --bits 4,32", "has no mode 4"),
        ("verify run/best.ckpt --bits 4,32", "has no mode 4"),
        ("verify nothing.npz", "there is no file nothing.npz"),
        ("verify --check nothing.json", "there is no file nothing.json"),
        (
            "search bits run/best.ckpt --cost bop",
            "cost 'bop' is unknown; choose from bops, bytes, mean_bits, weight_bits",
        ),
        ("search bits run/best.ckpt --methods luck,greedy", "method 'luck' is unknown; choose from uniform"),
        ("search bits run/best.ckpt --methods ,", "',' names no method; choose from uniform"),
        ("search certify run/best.ckpt --bits 4", "has no mode 4"),
        ("search certify run/best.ckpt --images 0", "--images is 0"),
        (f"predict {SHIPPED} x.png --bits 3", "has no mode 3; it has 2, 4, 8"),
        (f"predict {SHIPPED} x.png --bits 2,4", "predict runs one mode on one engine"),
        (f"predict {SHIPPED} x.png --engine tensorrt", "engine 'tensorrt' is unknown"),
        (f"predict {SHIPPED} x.png --batch 0", "--batch is 0"),
        (f"evaluate {SHIPPED.with_suffix('.qx')}", f"did you mean {SHIPPED}?"),
        ("compare nothing", "nothing holds no finished run"),
        ("compare run", "run holds no finished run"),
        ("report run", "run holds no finished run and nothing else to show"),
        ("report nowhere", "there is no folder nowhere"),
        ("report run --output run", "run is a folder; give the name of a file"),
        # a file that is none of ours, of every argument that names one
        ("evaluate README.md", "README.md is truncated or no checkpoint; training writes checkpoints"),
        ("evaluate text.qz", "text.qz is truncated or no .qz file"),
        ("evaluate cut.qz", "cut.qz is truncated or no .qz file (its length is not what its header says)"),
        ("evaluate changed.qz data=fake", "changed.qz was changed or damaged: its checksum does not fit"),
        ("predict changed.qz flat", "changed.qz was changed or damaged: its checksum does not fit"),
        (f"predict {SHIPPED} flat", "a.png is no image that can be read"),
        ("calibrate resnet18 flat", "a.png is no image that can be read"),
        ("calibrate resnet18x flat", "unknown model 'resnet18x': did you mean resnet18"),
        ("evaluate other.qz", "other.qz is no .qz file of this library"),
        ("evaluate float.ckpt", "float.ckpt is no checkpoint of a quantizable network; float weights load"),
        ("predict README.md flat", "README.md is truncated or no checkpoint"),
        (f"predict {SHIPPED} nothing.png", "there is no image nothing.png"),
        (f"predict {SHIPPED} run", "there are no images in run"),
        (f"predict {SHIPPED} flat --guard README.md", "README.md is no guard of quantizable assess"),
        (f"predict {SHIPPED} flat --guard guard.json", "has no mode 3; it has 2, 4, 8"),
        ("predict x.onnx flat", "there is no file x.onnx"),
        ("predict alone.xml flat", "there is no alone.bin, which holds the weights of alone.xml"),
        ("demo README.md", "README.md is truncated or no checkpoint"),
        ("demo alone.xml", "alone.xml holds one mode; the demo compares modes"),
        (f"demo {SHIPPED} --guard nothing.json", "there is no file nothing.json"),
        ("cost run/best.ckpt --results nothing.json", "there is no file nothing.json"),
        ("cost run/best.ckpt --results README.md", "README.md is no results.json of this library"),
        (
            "cost run/best.ckpt --engine openvino --layer-latency no/x.json",
            "there is no folder no to write x.json",
        ),
        ("cost run/best.ckpt --output README.md", "README.md is a file; give the name of a folder"),
        ("export run/best.ckpt --output README.md/x", "README.md is a file; give the name of a folder"),
        ("assess run/best.ckpt --natural sketch", "--natural sketch: say what it is"),
        ("assess run/best.ckpt --natural sketch data=folder data.root=no", "there is no folder no"),
        (
            "evaluate run/best.ckpt data=cifar10 data.root=no data.download=false",
            "there is no folder no, and download",
        ),
        ("verify run/best.ckpt --inputs x.npy --radius 1 --eps 1 --bits 2,32", "no input file x.npy"),
        (
            "verify run/best.ckpt --inputs README.md --radius 1 --eps 1 --bits 2,32",
            "README.md is no .npy of numbers",
        ),
        ("verify README.npz --inputs x.npy --radius 1 --eps 1", "README.npz is no .npz of numbers"),
        ("verify --check README.md", "README.md is no certificate of quantizable verify"),
        ("search bits run/best.ckpt --cost latency", "a budget of latency needs --latency-table FILE"),
        ("search bits run/best.ckpt --cost latency --latency-table no.json", "there is no file no.json"),
        ("search certify run/best.ckpt --bits 2 --from 4", "has no mode 4"),
        ("dashboard --dry-run no/x.json", "there is no folder no to write x.json into"),
        ("dashboard", "give --entity"),
        ("dashboard --bits 99", "99 is out of range"),
    ],
)
def test_what_needs_no_network_is_refused_before_torch_is_asked(
    words: str,
    said: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As everything is imported here already, the modules that import torch are hidden instead."""
    monkeypatch.chdir(files)
    for name in ("measure.evaluate", "report.build", "report.compare", "deploy.demo_page"):
        monkeypatch.setitem(sys.modules, f"quantizable.{name}", None)
    for name in ("cost", "export", "predict", "calibrate"):
        name = f"deploy.command_{name}"
        monkeypatch.setitem(sys.modules, f"quantizable.{name}", None)
    for name in ("assess.assessment", "verify.command", "search.command"):
        monkeypatch.setitem(sys.modules, f"quantizable.{name}", None)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("quantizable: error: ")
    assert said in error
    assert error.count("\n") == 1


def test_what_is_right_passes_the_checks(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    asked = []
    monkeypatch.setattr("quantizable.measure.evaluate.run", lambda args: asked.append(args) or 0)
    assert cli.main(["evaluate", "run/best.ckpt", "--bits", "w4a8,2", "data=fake"]) == 0
    assert cli.main(["evaluate", str(SHIPPED), "--bits", "2"]) == 0
    assert (asked[0].bits, asked[0].data, asked[1].bits) == ("w4a8,2", ["data=fake"], "2")


def raises(error: BaseException) -> Callable[[object], int]:
    def fail(args: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("no file"), "quantizable: error: no file\n"),  # whoever says it
        (OSError("disk\nfull"), "quantizable: error: disk full\n"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "quantizable: error: No module named"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException, said: str, files: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("quantizable.measure.evaluate.run", raises(error))
    words = ["evaluate", str(files / "run" / "best.ckpt")]
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1
    with pytest.raises(type(error)):
        cli.main([*words, "--debug"])


@pytest.mark.parametrize("error", [KeyError("a bug"), ValueError("a bug"), RuntimeError("of torch's")])
def test_what_is_our_fault_is_not_hidden(
    error: BaseException, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizable.measure.evaluate.run", raises(error))
    with pytest.raises(type(error)):
        cli.main(["evaluate", str(files / "run" / "best.ckpt")])


def test_stopped_by_hand(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quantizable.measure.evaluate.run", raises(KeyboardInterrupt()))
    assert cli.main(["evaluate", str(files / "run" / "best.ckpt")]) == 130
    assert capsys.readouterr().err == "quantizable: stopped\n"


def test_the_choices_are_those_that_there_are() -> None:
    assert tuple(SEARCHES) == METHODS
    assert {name: kind.__name__ for name, kind in DATAMODULES.items()} == DATA
    for name, recipe in QUANTIZERS.items():
        defined = [bits for bits in (1, 2) if bits >= recipe.activation.min_bits]
        assert LOWEST_BITS[name] == defined[0]
        recipe.weight(torch.ones(2, 2), [LOWEST_BITS[name]], None)
    assert LOWEST_BITS.keys() == QUANTIZERS.keys()
    assert cli.parser().options("search").count("--images") == 3
    assert BitMode.parse("w4a8").name == "w4a8"


SCRIPT = """
import contextlib, io, sys
from quantizable.cli import main

def quick(*words):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main(words)
    text = said.getvalue()
    heavy = {"torch", "timm", "numpy", "matplotlib", "wandb", "pytorch_lightning"} & sys.modules.keys()
    assert not heavy, (words, heavy)
    return text

import quantizable
assert "quantize" in dir(quantizable) and "BitMode" in quantizable.__all__
assert "usage: quantizable" in quick("--help")
assert "0.1.0" in quick("--version")
for command in "evaluate compare assess verify search export predict cost dashboard".split():
    assert "usage: quantizable " + command in quick(command, "--help")
assert "did you mean" in quick("evalute")
assert "there is no checkpoint" in quick("evaluate", "missing.ckpt")
assert "has no mode 3; it has 2, 4, 8" in quick("export", SHIPPED, "--bits", "3")
assert "bits.modes=[2,4]" in quick("train", "bits=[2,4]")
assert "there is no folder nowhere" in quick("train", "data=folder", "data.root=nowhere")
assert "there is no checkpoint x.ckpt" in quick("train", "start=x.ckpt")
assert "there is no checkpoint checkpoints/digits_resnet20/last.ckpt" in quick("train", "resume=last")
assert "no file of weights at x.th" in quick("train", "model.weights=x.th")
assert "README.md is truncated or no file of weights" in quick("train", "model.weights=README.md")
assert "quantizer=lsq is not defined at 1 bit; give 2 or more" in quick("train", "bits.modes=[1,2]")
assert "give one, as bits.modes=[4]" in quick("train", "scheme=individual")
assert "did you mean resnet20" in quick("train", "model.name=resnett20", "trainer=cpu")
assert "unknown model 'torchvision:resnet18x'" in quick("train", "model.name=torchvision:resnet18x")
assert "there is no image nothing.png" in quick("predict", SHIPPED, "nothing.png")
assert "README.md is truncated or no checkpoint" in quick("demo", "README.md")
assert "holds no finished run" in quick("compare", ".")
assert "holds no finished run" in quick("report", ".")
from quantizable.training import accelerator
accelerator.NVIDIA, accelerator.AMD = "no such library", accelerator.Path("no such device")
if sys.platform == "linux":
    assert "torch finds no GPU here; leave it out, or give trainer=cpu" in quick("train", "trainer=gpu")
"""


def test_what_needs_no_torch_does_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# No file of ours\n")
    script = f"SHIPPED = {str(SHIPPED)!r}\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(SHIPPED.parents[1]), "PATH": "", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_python_m_quantizable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quantizable", "--version"],
        capture_output=True,
        text=True,
        cwd=SHIPPED.parents[1],
    )
    assert done.stdout == f"{quantizable.__version__}\n"
