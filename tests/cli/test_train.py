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
import wandb

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
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return 0

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=banana"], "data/banana"),
        (["data.banana=1"], "data.banana"),
        (["schedul.epochs=1"], "no setting 'schedul.epochs'; did you mean 'schedule.epochs'"),
        (["modle=resnet18"], "no setting 'modle'; did you mean 'model'"),
        (["scheme=banana"], "scheme/banana"),
        (["bits.modes=[2"], "bits.modes"),
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
        (["data=fake", "data.batch_size=banana"], "batch_size='banana' is no integer"),
        (["data=fake", "data.image_size=banana"], "image_size='banana' is no integer"),
        (["data.image_size=banana"], "image_size='banana' is no integer"),
        (["data.val_size=banana"], "val_size='banana' is no number"),
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
    said = command(*words)
    assert isinstance(said, str), "it ran"
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
    assert "Error executing job" not in capfd.readouterr().err
    assert not [*tmp_path.glob("checkpoints/*")]  # no folder of a run that never began


def test_without_tensorboard_its_logger_names_the_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantizable.training.configuration.find_spec", lambda name: None)
    said = command(*TINY, "logger=tensorboard")
    assert said == "error: logger=tensorboard needs tensorboard: pip install 'quantizable[tensorboard]'"


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
    assert [line.partition(" is not")[0] for line in said] == ["error: lr=-1", "error: lr=-2"]


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
    assert done.stderr.startswith("error: bit-width 1.5 is not an integer")
    assert done.stdout == "False\n"


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("quantizable.training.run._has_wandb_login", lambda: False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config(tmp_path, "logger=wandb", "schedule.epochs=1"))
    assert wandb.run is None  # the next run of a sweep gets its own
    wandb.teardown()  # waits for what is still being written
    (file,) = (tmp_path / "fake_tiny_cnn").glob("wandb/offline-run-*/run-*.wandb")
    logged = file.read_bytes()  # names stand in it as they are
    for mode in ("2", "8", "32"):
        for key in ("val/top1", "val/top5", "val/loss", "val/disagreement", "test/top1", "train/loss"):
            assert f"{key}/{mode}".encode() in logged, key
    for key in (b"val/top1/mean", b"val/top1_against_bits", b"test/modes", b"schedule", b"quantizer"):
        assert key in logged
    assert b"val/top1/4" not in logged


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
