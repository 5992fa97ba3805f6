"""``python train.py``: sweeps, loggers, several processes, and one line for every mistake."""

import json
import logging
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantizable.training.run import train
from tests.tiny import CONF, TINY, config

ROOT = CONF.parent
Command = Callable[..., Any]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs ``train.py`` in this process, in an empty folder; returns what it exits with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])  # Hydra sets its own,
    # and shuts all others down: absl's, which tensorboard brings, would close pytest's capture
    monkeypatch.setattr(logging, "shutdown", lambda *_: None)

    def run(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        assert sys.argv == ["train.py", *words]  # Lightning starts further processes by them
        return stop.value.code

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=banana"], "data=banana is no data; there are cifar10, cifar100, digits, "),
        (["bits=[2,4]"], "did you mean bits.modes=[2,4]?"),
        (["data=digits", "data.size=64"], "data.size is a setting of data=fake alone"),
        (["hydra/launcher=banana"], "hydra/launcher/banana"),
        (["data=folder"], "data.root has no value; give data.root=my_images"),
        (["model=timm"], "model.name has no value; give model.name="),
        (["+banana=1"], "banana is no setting; there are data, model, "),
        (["+experiment.banana=1"], "experiment is no setting"),
        (["+bits.extra=3"], "bits.extra is no setting; bits has modes, "),
        (["+quantizer.banana=3"], "quantizer.banana is no setting"),
        (["+trainer.banana=3", *TINY], "trainer: "),
        (["data=fake", "schedule.augment=banana"], "augment='banana' is not available here"),
        (["data=svhn", "schedule.augment=crop_flip"], "augment='crop_flip' is not available here"),
        (["data=samson", "data.file=x.mat", "schedule.augment=crop"], "crop would be ignored"),
        (["data=fake", "data.size=2"], "too few images: val_size=0.25 of 2 training images"),
        (["data=fake", "trainer.limit_train_batches=0"], "no training batches"),
        (["data=fake", "data.batch_size=1.5"], "batch_size=1.5 is no integer"),
        (["data=fake", "scheme=random_k", "scheme.sampler.k=0.5"], "k"),
        (["seed=-1"], "seed=-1 is no integer from 0 to 4294967295"),
        (["train.clip_norm=much"], "train.clip_norm is 'much'; it is a number greater than 0"),
        (["data=fake", "strategy=adversarial", "strategy.iterations=1.5"], "at least 1 whole iteration"),
        (["data=fake", "model.options={banana:1}"], "'resnet20' cannot be built with"),
        (["data=fake", "strategy._target_=nowhere.Mixup"], "No module named 'nowhere'"),
        (["data=fake", "scheme=individual"], "give one, as bits.modes=[4]"),
        (["model.options=3"], "model.options is 3; it is a mapping"),
        (["bits.exclude=3"], "bits.exclude is 3; it lists patterns"),
        (["data=fake", "data.batch_size=0"], "batch_size=0; give at least 1"),
        (["data=fake", "+data.val_size=99999"], "cannot be held out"),
        (["data=fake", "+data.banana=1"], "banana"),
        (["data=fake", "bits.modes=[20]"], "20 is out of range"),
        (["data=fake", "trainer.accelerator=banana"], "banana"),
        (["resume=last"], "there is no checkpoint"),
    ],
)
def test_a_mistake_gives_one_line(
    command: Command, words: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if "rror" in line or "File" in line]
    assert len(said) == 1, said
    assert said[0].startswith("quantizable: error: ")
    assert message in said[0]
    assert not [*tmp_path.glob("checkpoints/*")]  # no folder of a run that never began


def test_without_tensorboard_its_logger_names_the_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quantizable.training.configuration.find_spec", lambda name: None)
    assert command(*TINY, "logger=tensorboard") == 2
    said = "logger=tensorboard needs tensorboard: pip install 'quantizable[tensorboard]'"
    assert capfd.readouterr().err == f"quantizable: error: {said}\n"


def test_without_a_gpu_one_is_not_trained_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert command("data=fake", "trainer=gpu") == 2
    printed = capfd.readouterr()
    assert (
        "trainer.accelerator=gpu: torch finds no GPU here; leave it out, or give trainer=cpu" in printed.err
    )
    assert "bf16" not in printed.out + printed.err


def test_a_fault_of_ours_has_its_traceback_and_debug_shows_any(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint x\.ckpt"):
        command("start=x.ckpt", "--debug")

    def fail(cfg: object) -> None:
        int("a bug")

    monkeypatch.setattr("quantizable.training.run.train", fail)
    with pytest.raises(ValueError, match="a bug"):
        command("data=fake")


def test_a_fault_of_ours_in_a_sweep_does_not_end_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quantizable.training.run.train", lambda cfg: int("a bug"))
    assert command("-m", "data=fake", "seed=0,1", "output=kept") == 1
    assert capfd.readouterr().err.count("ValueError: invalid literal for int() with base 10: 'a bug'") == 2


def test_a_sweep_keeps_every_run(command: Command, tmp_path: Path) -> None:
    assert command("-m", *TINY, "schedule.epochs=1", "seed=0,1", "output=kept") == 0
    runs = sorted((tmp_path / "kept").glob("*/results.json"))
    assert [json.loads(path.read_text())["seed"] for path in runs] == [0, 1]
    assert [path.parent.name for path in runs] == ["fake_tiny_cnn", "fake_tiny_cnn-2"]


def test_one_bad_run_does_not_take_the_sweep_with_it(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("schedule.epochs=1", "schedule.optimizer.lr=-1,0.1,-2", "output=kept")
    assert command("-m", *TINY, *words) == 1
    assert len([*(tmp_path / "kept").glob("*/results.json")]) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if "rror" in line]
    assert [line.partition(" is not")[0] for line in said] == [
        "quantizable: error: lr=-1",
        "quantizable: error: lr=-2",
    ]


def test_bad_bits_are_refused_before_torch_is_imported() -> None:
    script = """
import runpy, sys
sys.argv[1:] = ["bits.modes=[1.5]"]
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.startswith("quantizable: error: bit-width 1.5 is not an integer")
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """A ViT, as batch norms see a share of the batch; quantizers that need no calibration on a share."""
    words = (
        "model.name=vit_tiny_patch16_224",
        "model.options={img_size:8,patch_size:4,depth:1,embed_dim:12,num_heads:2}",
        "quantizer=dorefa",
        "bits.first_last=float",
        "bits.modes=[4,32]",
        "scheme=any_precision",
        "train.clip_norm=1.0",
    )
    done = subprocess.run(
        [
            *(sys.executable, "train.py", *TINY, *words, f"output={tmp_path}", "run=two"),
            *("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept in") == 1
    one = train(config(tmp_path, *words, "run=one", "data.batch_size=16"))
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    for mode, values in one["modes"].items():
        assert two["modes"][mode] == pytest.approx(values, rel=1e-3, abs=1e-3)
    states = [torch.load(tmp_path / n / "last.ckpt", weights_only=True)["state_dict"] for n in ("one", "two")]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-5)
