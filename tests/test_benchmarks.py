"""What the scripts in ``benchmarks/`` measure with, and the runs that they compare."""

import ast
import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from quantizable.training.configuration import read_settings
from quantizable.training.schemes import SCHEMES
from tests.tiny import CONF, config

BENCHMARKS = CONF.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import claim  # noqa: E402
import evidence  # noqa: E402
import found  # noqa: E402
import runs  # noqa: E402
import steps  # noqa: E402

ARMS = [arm for part in evidence.parts(seeds=2).values() for arm in part]


def test_ratio_is_the_median_of_pairs_and_not_a_ratio_of_medians() -> None:
    ours, bare = steps.Times(wall=[1, 8, 3]), steps.Times(wall=[2, 4, 1])
    assert steps.ratio(ours, bare, "wall") == 2  # of 1/2, 8/4 and 3/1; the medians would give 3/2


def test_steps_of_both_sides_take_turns() -> None:
    order: list[str] = []
    contenders = {"bare": lambda: order.append("bare"), "ours": lambda: order.append("ours")}
    times = steps.interleaved(contenders, repeats=2, device="cpu", warmup=1)
    assert order == ["bare", "ours"] * 3
    assert len(times["ours"].wall) == len(times["bare"].cpu) == 2


def test_both_steps_train() -> None:
    case, setting = steps.Case("tiny_cnn", 4, 8), steps.Setting()
    bare = steps.make_network(case, setting)
    ours = steps.quantizable_network(case, setting, [2, 32])
    before = [network.fc.weight.detach().clone() for network in (bare, ours.model)]
    steps.bare_step(bare, setting, case, passes=2)()
    steps.multi_mode_step(ours, setting, case, SCHEMES["quantizable"])()
    assert not bare.fc.weight.equal(before[0])
    assert not ours.model.fc.weight.equal(before[1])
    assert ours.bits == 2 or str(ours.bits) == "2", "the lowest mode is visited last"


def test_a_gpu_run_is_tried_on_the_cpu_and_measures_a_row_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = importlib.import_module("gpu")
    words = ["--dry-run", "--parts", "peers", "--output", str(tmp_path)]
    gpu.main(words)
    kept = (tmp_path / "peers.json").read_text()
    row = json.loads(kept)["rows"]["resnet20"]
    assert {"ours, of bare", "adabits, of bare", "any_precision, of bare"} <= row.keys()
    gpu.main(words)
    assert (tmp_path / "peers.json").read_text() == kept
    with pytest.raises(SystemExit):  # neither a GPU nor a dry run
        gpu.main(["--parts", "peers", "--output", str(tmp_path)])
    assert "torch sees no GPU here; give --dry-run" in capsys.readouterr().err


def test_gains_over_uniform_bits_are_those_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    def seed(after: float, bops: float) -> dict[str, dict[str, float]]:
        gains = {"above the line after": after - 0.7, "above uniform after": after - 0.6}
        gains["above the line before"] = 0.0
        return {
            "found": {"bops": bops, "bytes": 25, "before": 0.7, "after": after} | gains,
            "uniform": {"bops": 100, "bytes": 20, "before": 0.6, "after": 0.6},
            "above": {"bops": 200, "bytes": 30, "before": 0.8, "after": 0.8},
        }

    assert found.above_line_of_operations(seed(0.7, 125)) == pytest.approx(5)  # the line is at 65 %
    assert found.above_line_of_operations(seed(0.7, 201)) is None
    found.table({"inside": {"0": seed(0.71, 150), "1": seed(0.73, 150)}, "beyond": {"0": seed(0.7, 250)}})
    printed = capsys.readouterr().out.splitlines()
    inside, beyond = (line for line in printed if "| found" in line)
    assert [line for line in printed if "| the line |  |  | 70.00 | 70.00 (70.00, 70.00)" in line]
    # standard error 1 point, and Student's t of one degree of freedom is 12.706
    around_two = "+2.00 (-10.71 to +14.71)"
    assert f"{around_two} | +12.00 (-0.71 to +24.71) | -8.00 (-20.71 to +4.71) | {around_two}" in inside
    assert "+0.00 (one seed) | +10.00 (one seed) | -10.00 (one seed) | beyond it" in beyond


def test_a_rate_is_chosen_on_held_out_images_and_never_on_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keep(stage: str, rate: float, *top1: float) -> None:
        folder = tmp_path / claim.run_name(stage, "all", rate, 1, 0)
        folder.mkdir()
        modes = {str(mode): {"top1": value} for mode, value in enumerate(top1)}
        (folder / "results.json").write_text(json.dumps({"modes": modes}))

    for rate, *top1 in [(0.02, 0.9, 0.1), (0.05, 0.5, 0.6), (0.1, 0.4, 0.6)]:
        keep("budget", rate, *reversed(top1), 1.0)
        assert claim.best_rate("all", 1, tmp_path) is None
        keep("rates", rate, *top1)
    assert claim.best_rate("all", 1, tmp_path) == 0.05
    assert claim.best_rate("all", 2, tmp_path) is None
    monkeypatch.setattr(sys, "argv", ["claim.py", "--data", "d", "--start", "s", "--rates-from", "999"])
    with pytest.raises(SystemExit):
        claim.main()
    assert "first run --stage rates --epochs 999 --sides all sandwich" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.name}-{arm.seed}")
def test_every_experiment_is_a_configuration_that_training_takes(arm: evidence.Arm, tmp_path: Path) -> None:
    args = evidence.argparse.Namespace(data="data", weights="w.th", teacher="t.th", epochs=1)
    cfg = read_settings(config(tmp_path, *evidence.overrides(args, arm), small=False))
    assert cfg["seed"] == arm.seed
    assert cfg["schedule"]["epochs"] == 1
    assert arm.data.upper() in cfg["data"]["_target_"]
    assert arm.name.startswith("individual") == (len(cfg["bits"]["modes"]) == 1)


def test_a_name_of_an_experiment_says_what_is_trained() -> None:
    said: dict[str, tuple[str, ...]] = {}
    for arm in ARMS:  # the default is in every part of a data set, and trained once for each
        assert said.setdefault(arm.run_name(3), (arm.data, *arm.overrides)) == (arm.data, *arm.overrides)


def test_cifar10_is_trained_from_float_weights_and_nothing_else_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = evidence.argparse.Namespace(data="data", weights=None, teacher=None, epochs=1)
    for arm in evidence.parts(1)["cifar100"]:
        assert not any("weights" in said for said in evidence.overrides(args, arm))
    monkeypatch.setattr(sys, "argv", ["evidence.py", "--data", "data", "--parts", "ablation"])
    with pytest.raises(SystemExit):
        evidence.main()
    assert "--weights is needed for CIFAR-10" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def train(command: list[str], check: bool) -> None:
        commands.append(command)
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "results.json").write_text('{"modes": {"2": {}, "32": {}}}')

    monkeypatch.setattr(runs.subprocess, "run", train)
    first = runs.trained("one", ["data=fake"], tmp_path)
    assert list(first["modes"]) == ["2", "32"]
    assert runs.trained("one", ["data=fake"], tmp_path) == first
    [command] = commands
    assert command[1:] == [str(runs.ROOT / "train.py"), "data=fake", f"output={tmp_path}", "run=one"]


def test_a_run_that_was_cut_off_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "one-2"  # the first was cut off before its first checkpoint
    (tmp_path / "one").mkdir()
    folder.mkdir()
    (folder / "last.ckpt").touch()
    (tmp_path / "one_more").mkdir()
    (tmp_path / "one_more" / "results.json").write_text("{}")  # another run
    commands: list[list[str]] = []

    def train(command: list[str], check: bool) -> None:
        commands.append(command)
        (folder / "results.json").write_text(json.dumps({"modes": {}}))

    monkeypatch.setattr(runs.subprocess, "run", train)
    assert runs.trained("one", ["seed=1"], tmp_path) == {"modes": {}}
    assert commands[0][2:] == ["seed=1", f"output={tmp_path}", "run=one", "resume=last"]


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_what_a_script_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quantizable"):
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("quantizable"):
                    raise
                pytest.skip(f"{error.name} is not installed")
            for name in node.names:
                there = hasattr(module, name.name) or find_spec(f"{node.module}.{name.name}")
                assert there, f"{node.module} has no {name.name}"
