"""The main job on fake data: what a run writes, resumes, averages, logs and refuses."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.io import savemat
from torch._dynamo.utils import counters

import quantizable
from quantizable.data import DataModule
from quantizable.measure.evaluate import evaluate
from quantizable.report.files import finite
from quantizable.training.configuration import read_settings
from quantizable.training.metrics_file import RunCSVLogger
from quantizable.training.run import make_module, train
from quantizable.training.run_folder import AtomicCheckpointIO, claimed
from quantizable.training.run_names import latest, resumed
from quantizable.training.same_settings import differing
from tests.tiny import CONF, config, same

ROOT = CONF.parent


def contents(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def choices() -> list[tuple[str, str]]:
    """Every file of every group."""
    return [(f.parent.name, f.stem) for f in sorted(CONF.glob("*/*.yaml"))]


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_yaml_composes_and_what_it_describes_can_be_made(group: str, name: str, tmp_path: Path) -> None:
    more = {
        ("model", "timm"): ["model.name=resnet18"],
        ("data", "folder"): [f"data.root={tmp_path}"],
        ("data", "text"): ["data.train=train.tsv"],
        ("scheme", "only"): ["scheme.sampler.modes=[4]"],
        ("data", "samson"): [f"data.file={tmp_path}/scene.mat"],
    }
    savemat(tmp_path / "scene.mat", {"Y": np.arange(5 * 800.0).reshape(5, 800), "S_GT": np.ones((20, 40, 3))})
    if group == "search":  # of `quantizable recipe`
        with initialize_config_dir(str(CONF), version_base="1.3"):
            assert compose("recipe", overrides=[f"search={name}"]).search
        return
    made = group in ("scheme", "bits", "quantizer", "schedule")
    words = [f"{group}={name}", *more.get((group, name), [])]
    if made:
        words += ["model=timm", "model.name=tiny_cnn", "model.cifar_stem=false", "data=fake"]
        words += ["bits.modes=[4]"] if name == "individual" else []
    cfg = config(tmp_path, *words, small=False)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if group == "data":
        assert isinstance(instantiate(cfg.data), DataModule)
    if made:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        module = make_module(plain, instantiate(cfg.scheme), instantiate(cfg.data))
        assert module.modes
    if group == "logger" and name == "csv":
        assert instantiate(cfg.logger).save_dir == str(tmp_path)


def test_every_field_of_the_configuration_has_a_comment() -> None:
    for file in sorted(CONF.rglob("*.yaml")):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("#"), file
        if file.parent.name in ("bits", "data", "quantizer", "trainer") and "defaults:" not in "".join(lines):
            fields = [line for line in lines if line[:1].isalpha()]
            assert all("#" in line for line in fields), file


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs with dropout."""
    output = tmp_path_factory.mktemp("undisturbed")
    train(config(output, *LONG))
    return output / "fake_tiny_cnn"


LONG = ("schedule.epochs=3", "model.options={drop_rate:0.3}", "scheme=sandwich", "schedule.optimizer.lr=0.1")


def test_a_run_starts_from_a_float_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(config(tmp_path, "run=float", "bits.modes=[32]", "scheme=individual", "schedule.epochs=1"))
    path = tmp_path / "float" / "best.ckpt"
    words = (f"start={path}", "run=low", "schedule.epochs=1", "schedule.optimizer.lr=1e-9")
    with caplog.at_level("INFO"):
        train(config(tmp_path, *words))
    assert "lacks mode 2, 8: float weights are taken" in caplog.text
    first, then = quantizable.load(path), quantizable.load(tmp_path / "low" / "best.ckpt")
    for name, layer in first.layers().items():
        torch.testing.assert_close(then.layers()[name].weight, layer.weight, atol=1e-6, rtol=0)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="does not fit the network"):
        train(config(tmp_path, *words, "model.name=nin", "run=other"))


def test_what_a_run_leaves(undisturbed: Path) -> None:
    written = {path.name for path in undisturbed.iterdir()}
    assert written == {
        "best.ckpt", "last.ckpt", "config.yaml", "results.json", "modes.png", "metrics.csv",
    }  # fmt: skip
    assert (undisturbed / "modes.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((undisturbed / "results.json").read_text())
    assert [*results["modes"]] == ["2", "8", "32"]
    assert all(
        {"loss", "top1", "top5", "disagreement"} == values.keys() for values in results["modes"].values()
    )
    assert results["set"] == "test"
    saved = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert saved["schedule"]["epochs"] == 3
    assert saved["data"]["augment" if "augment" in saved["data"] else "seed"] is not None
    assert "${" not in (undisturbed / "config.yaml").read_text()
    rows = list(csv.DictReader((undisturbed / "metrics.csv").open()))
    for key in ("top1", "top5", "loss", "disagreement"):
        for mode in ("2", "8", "32"):
            assert len([row for row in rows if row[f"val/{key}/{mode}"]]) == 3


def test_the_results_are_those_of_the_best_checkpoint(undisturbed: Path) -> None:
    """The best of the validation split, by an evaluation that shares no code with Lightning's loop."""
    rows = [r for r in csv.DictReader((undisturbed / "metrics.csv").open()) if r["val/top1/mean"]]
    means = [float(row["val/top1/mean"]) for row in rows]
    best = contents(undisturbed / "best.ckpt")
    assert means[best["epoch"]] == pytest.approx(max(means))
    network = quantizable.load(undisturbed / "best.ckpt")
    data = instantiate(config(undisturbed).data)
    measured = evaluate(network, data.test_dataloader(), network.modes)
    results = json.loads((undisturbed / "results.json").read_text())["modes"]
    for mode, values in measured.items():
        assert results[mode] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
    os.utime(run / "last.ckpt", (1, 1))
    assert claimed(run) == (tmp_path / "run-3", [tmp_path / "run-3"])
    assert claimed(run)[0] == tmp_path / "run-4"  # the third has begun, and has written nothing yet
    assert latest(run) == tmp_path / "run-2"
    assert latest(tmp_path / "other") == tmp_path / "other"
    new = tmp_path / "a" / "b"
    assert claimed(new) == (new, [new, new.parent])


def test_resume_keeps_the_settings_that_a_run_was_begun_with(undisturbed: Path, tmp_path: Path) -> None:
    words = (*LONG, "resume=last")
    with pytest.raises(ValueError, match=r"cannot be resumed: it was begun with seed=0, asked for is 1"):
        train(config(undisturbed.parent, *words, "seed=1"))
    with pytest.raises(ValueError, match=r"begun with schedule.optimizer.lr=0.1, asked for is 0.01"):
        train(config(undisturbed.parent, *words, "schedule.optimizer.lr=0.01"))
    # of a sweep's runs the one with these settings, though another is newer
    for name, seed in (("run", 0), ("run-2", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
        cfg = OmegaConf.to_yaml(config(tmp_path, f"seed={seed}"), resolve=True)
        (tmp_path / name / "config.yaml").write_text(f"# a line\n{cfg}")
    os.utime(tmp_path / "run" / "last.ckpt", (1, 1))
    for seed, name in ((0, "run"), (1, "run-2"), (2, "run-2")):
        asked = read_settings(config(tmp_path, "run=run", "resume=last", f"seed={seed}"))
        assert resumed(asked) == tmp_path / name / "last.ckpt"
    moved = read_settings(
        config(tmp_path, "run=run", "resume=last", "trainer.devices=2", "logger=tensorboard")
    )
    assert differing(moved, tmp_path / "run") == {}
    path = tmp_path / "run-2" / "last.ckpt"
    for words in (f"resume={path}", f"resume={path} run=run", f"resume={path} run=run-2"):
        assert resumed(read_settings(config(tmp_path, *words.split()))) == path
    with pytest.raises(ValueError, match="goes on in its own folder"):
        resumed(read_settings(config(tmp_path, "run=other", f"resume={path}")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.limit_test_batches=0"], "leaves nothing to test on"),
        (["trainer.limit_test_batches=0.01"], "of 8 test batches is none"),
        (["test=false", "trainer.limit_val_batches=0"], "there is none; leave out test=false"),
        (["test=false", "+data.val_size=0"], "there is none; leave out test=false"),
        (["train.accumulate=0"], "train.accumulate is 0"),
        (["train.label_smoothing=2"], "train.label_smoothing is 2"),
        (["schedule.optimizer.name=adm"], "name='adm' is not allowed"),
        (
            ["schedule.optimizer.schedule=multistep", "schedule.optimizer.milestones=[100]"],
            "shares of the run",
        ),
        (["start=some.ckpt", "model.pretrained=true"], "start brings weights of its own"),
        (["finetune=2"], "finetune needs the checkpoint to start from"),
    ],
)
def test_what_cannot_work_is_refused_before_training(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, *words))
    assert not [*tmp_path.iterdir()]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # as in the tests: sums depend on how many threads share them
from tests.tiny import config
from quantizable.training.configuration import read_settings
from quantizable.training.metrics_file import RunCSVLogger
from quantizable.training.run import train
from quantizable import QuantizableClassifier
def stop(module, batch, batch_idx):
    if module.trainer.current_epoch == 1 and batch_idx == 3:
        os.kill(os.getpid(), signal.SIGKILL)
QuantizableClassifier.on_train_batch_start = stop
train(config(Path(sys.argv[1]), *sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(undisturbed: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, *LONG], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    folder = tmp_path / undisturbed.name
    assert not (folder / "results.json").exists()
    assert contents(folder / "last.ckpt")["epoch"] == 0
    train(config(tmp_path, *LONG, "resume=last"))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    results, expected = (json.loads((f / "results.json").read_text()) for f in (folder, undisturbed))
    assert results["modes"] == expected["modes"]
    before = contents(folder / "best.ckpt")["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert results["train_seconds"] >= round(before, 1) > 0, "of both sessions"
    resumed, whole = (contents(f / "last.ckpt") for f in (folder, undisturbed))
    assert resumed["epoch"] == whole["epoch"] == 2
    assert same(resumed["state_dict"], whole["state_dict"])
    assert metrics(folder) == metrics(undisturbed)


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return [*csv.DictReader(lines)]


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_between_a_row_and_its_checkpoint_leaves_each_epoch_once(
    undisturbed: Path, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the second epoch are written, its checkpoint is not: it is trained and logged again."""

    def stop(module: Any, batch: Any, batch_idx: int) -> None:
        if module.trainer.current_epoch == 1:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(quantizable.QuantizableClassifier, "on_train_batch_start", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(config(tmp_path, *LONG))
    folder = tmp_path / undisturbed.name
    first = contents(folder / "last.ckpt")
    whole = (undisturbed / "metrics.csv").read_text().splitlines(keepends=True)
    wrong = [line.replace("0.", "0.9") if line.startswith(("1,", "2,")) else line for line in whole]
    behind = wrong[: 1 + sum(row["epoch"] in ("0", "1") for row in metrics(undisturbed))]
    assert any(row["epoch"] == "1" and row["val/top1/mean"] for row in metrics(undisturbed))
    (folder / "metrics.csv").write_text("".join(behind)[: -7 if torn else None])
    assert first["epoch"] == 0
    train(config(tmp_path, *LONG, f"resume={folder / 'last.ckpt'}"))
    rows, expected = metrics(folder), metrics(undisturbed)
    places = [(row["epoch"], row["step"], row["val/top1/mean"] != "") for row in rows]
    assert places == [(row["epoch"], row["step"], row["val/top1/mean"] != "") for row in expected]
    assert rows == expected


def test_a_kill_while_a_column_is_added_keeps_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = RunCSVLogger(tmp_path, name="", version="")
    logger.log_metrics({"loss": 1.0, "epoch": 0}, 0)
    logger.save()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", killed)
        logger.log_metrics({"accuracy": 1.0, "epoch": 0}, 1)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    again = RunCSVLogger(tmp_path, name="", version="")
    again.log_metrics({"accuracy": 0.5, "epoch": 0}, 1)
    again.save()
    assert [(row["step"], row["loss"], row["accuracy"]) for row in metrics(tmp_path)] == [
        ("0", "1.0", ""), ("1", "", "0.5"),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_average_of_weights_is_what_is_validated_tested_and_loaded(tmp_path: Path) -> None:
    results = train(config(tmp_path, "train.ema=0.9", "schedule.optimizer.lr=0.2"))
    saved = contents(tmp_path / "fake_tiny_cnn" / "best.ckpt")
    assert not same(saved["state_dict"], saved["current_model_state"])
    network = quantizable.load(tmp_path / "fake_tiny_cnn" / "best.ckpt")
    loader = instantiate(config(tmp_path).data).test_dataloader()
    assert results["images"] == sum(len(labels) for _, labels in loader)
    measured = evaluate(network, loader, network.modes)
    for mode, values in measured.items():
        assert results["modes"][mode] == pytest.approx(values, rel=1e-4, abs=1e-6)
        assert network.model.body[1].norms[mode].running_mean.isfinite().all()


def test_options_and_overrides_from_the_command_line(tmp_path: Path) -> None:
    words = ("model.options={drop_rate:0.3}", "bits.overrides={body.*:{bits:4}}")
    cfg: Any = OmegaConf.to_container(config(tmp_path, *words), resolve=True)
    module = make_module(cfg, "quantizable", instantiate(config(tmp_path).data))
    assert module.network.model.drop.p == 0.3
    assert module.network.layers()["body.0"].fixed_bits == 4


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    results = train(config(tmp_path, "+data.val_size=0", "schedule.epochs=1"))
    assert contents(tmp_path / "fake_tiny_cnn" / "best.ckpt")["epoch"] == 0
    assert results["modes"]["2"]["top1"] >= 0


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)

    def full(contents: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left on device.*what was saved before is intact"):
        writer.save_checkpoint({"epoch": 2}, path)
    assert contents(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bits.modes=[]", "the list of bit modes is empty"),
        ("bits.modes=[4,4]", "listed more than once"),
        ("bits.modes=[0,32]", "out of range"),
        ("bits.modes=[1.5]", "not an integer"),
        ("bits.modes=[20]", "out of range"),
        ("bits.modes=[33]", "out of range"),
        ("bits.modes=[-4]", "out of range"),
        ("bits.modes=[w4]", "not understood"),
        ("bits.modes=[banana]", "not understood"),
        ("bits.modes=[1,32]", "not defined at 1 bit"),
        ("bits.exclude=[nothing.*]", "matches nothing; the layers are stem.0"),
        ("schedule.epochs=-1", "at least 1"),
        ("schedule.epochs=2.5", "at least 1"),
        ("schedule.optimizer.lr=-1", "greater than 0"),
        ("schedule.optimizer.name=banana", "an optimizer of timm"),
        ("train.accumulate=0", "at least 1"),
        ("train.keep_weights=true", "give train.accumulate above 1"),
        ("train.keep_weights=true train.accumulate=2 trainer.compile=true", "leave out trainer.compile"),
        ("train.ema=1.5", "between 0 and 1"),
        ("train.label_smoothing=1", r"in \[0, 1\)"),
        ("train.teacher=resnet56", "a teacher needs both"),
        ("model.name=banana", "unknown model 'banana'"),
        ("model.weights=banana.pth", "banana.pth"),
        ("scheme=individual", "trains one mode"),
        ("bits.modes=[1,2]", "quantizer=lsq is not defined at 1 bit; give 2 or more"),
        ("quantizer.name=lsqq", "quantizer 'lsqq' is unknown"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", None)
    with pytest.raises((ValueError, OSError), match=message):
        train(config(tmp_path, *override.split()))


def test_another_network_is_not_resumed_and_a_broken_checkpoint_stays(undisturbed: Path) -> None:
    output = undisturbed.parent
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    with pytest.raises(
        ValueError, match=r"cannot be resumed: it was trained with .*modes=\['2', '8', '32'\]"
    ):
        train(config(output, *LONG, "resume=last", "bits.modes=[2,4]"))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(config(output, "run=other", "resume=last"))
    broken = output / "broken.ckpt"
    broken.write_bytes((undisturbed / "last.ckpt").read_bytes()[:999])
    with pytest.raises(ValueError, match="truncated"):
        train(config(output, f"resume={broken}"))
    broken.unlink()
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}.items() <= before.items()


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file is a file; give the name of a folder"):
        train(config(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot write"):
        train(config(tmp_path / "locked"))


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    words = ("data=cifar10", f"data.root={tmp_path / 'none'}", "data.download=false")
    with pytest.raises(OSError, match=r"CIFAR.*(?s:.*)none"):
        train(config(tmp_path / "checkpoints", *words, small=False))
    assert not (tmp_path / "checkpoints").exists()  # the name stays free, and nothing is left
    (tmp_path / "cifar10_resnet20").mkdir()
    with pytest.raises(OSError, match="CIFAR"):
        train(config(tmp_path, *words, small=False))
    assert (tmp_path / "cifar10_resnet20").exists()  # it was not ours


def test_the_log_tells_what_runs_and_what_compiling_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[torch.nn.Module] = []  # compilation itself: test_traps.py
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    caplog.set_level("INFO")
    words = ("trainer.precision=32-true", "trainer.channels_last=false", "trainer.compile=true")
    train(config(tmp_path, *words, "schedule.epochs=1", "test=false"))
    assert len(compiled) == 1
    assert "32-true, as asked for; memory layout as it is" in caplog.text
    assert len(re.findall(r"compiled: the first step took [\d.]+ s, the second [\d.]+ s", caplog.text)) == 1


@pytest.mark.slow
def test_every_kind_of_mode_is_compiled(tmp_path: Path) -> None:
    torch.compiler.reset()
    counters.clear()
    kinds = "bits.modes=[2,w4a32,w32a4,w4a8,32]"
    train(config(tmp_path, kinds, "bits.first_last=mode", "trainer.compile=true", "data.size=32"))
    torch.compiler.reset()
    frames = counters["frames"]
    assert frames["ok"] == frames["total"] > 8, "the graphs that torch keeps by default"


def test_names_that_look_like_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("1", "nan"):
        train(config(Path("5"), f"run={run}", "schedule.epochs=1"))
        json.loads((tmp_path / "5" / run / "results.json").read_text(), parse_constant=pytest.fail)


def test_a_run_that_diverges_in_its_last_step_says_so(tmp_path: Path) -> None:
    words = ("schedule.optimizer.lr=1e12", "schedule.epochs=1", "data.batch_size=48")  # one step in all
    with pytest.raises(RuntimeError, match=r"the val loss of mode .* is not finite in epoch 0, step 1"):
        train(config(tmp_path, *words))
    with pytest.raises(RuntimeError, match=r"the test loss of mode .* is not finite .* step 1"):
        train(config(tmp_path, *words, "+data.val_size=0", "data.batch_size=64"))
    assert not [*tmp_path.rglob("results.json")]


def test_numbers_that_json_does_not_have() -> None:
    contents = {"loss": float("nan"), "rows": [1.0, float("inf")], "text": "nan"}
    assert finite(contents) == {"loss": None, "rows": [1.0, None], "text": "nan"}


def test_a_run_that_ends_before_its_first_validation_is_measured(tmp_path: Path) -> None:
    """As one with Lightning's ``max_steps``: there is no best checkpoint."""
    results = train(config(tmp_path, "+trainer.max_steps=1"))
    assert Path(results["checkpoint"]).name == "last.ckpt"
    assert set(results["modes"]) == {"2", "8", "32"}
