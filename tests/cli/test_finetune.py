"""An assignment of a search becomes a mode by training; a recipe does all of it, and goes on after a kill."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from quantizable import load
from quantizable.cli import main, recipe
from quantizable.cli.finetune import settings
from quantizable.cli.search import add_parser as add_search
from quantizable.data import Fake
from quantizable.search.recipe import check_same_recipe
from quantizable.storage.assignment import SavedAssignment, write_assignment
from quantizable.storage.journal import Journal
from quantizable.training.run_folder import AtomicCheckpointIO
from tests.tiny import CONF

DATA = {"size": 32, "image_size": 12, "num_classes": 4, "batch_size": 16}
TRAIN = ["trainer=cpu", "trainer.precision=32-true", "schedule.epochs=2"]


@pytest.fixture(scope="module")
def checkpoint(calibrated: Callable[..., Path]) -> Path:
    """Of a small network with three modes."""
    return calibrated("lenet5", [2, 4, 32], Fake(**DATA), img_size=12)  # type: ignore[arg-type]


@pytest.fixture
def found(checkpoint: Path, tmp_path: Path) -> Path:
    """An assignment file of its network; its name has a dot, which a mode's cannot."""
    network = load(checkpoint)
    free = [name for name, layer in network.layers().items() if layer.fixed_bits is None]  # type: ignore[union-attr]
    bits: dict[str, Any] = dict.fromkeys(free, 4) | {free[0]: "w2a4"}
    bits |= {name: 8 for name in network.layers() if name not in free}
    path = tmp_path / "found-2.5bit.yaml"
    write_assignment(path, network, SavedAssignment(bits, norm_batches=1))
    return path


def test_a_folder_is_kept_for_a_recipe_that_has_results(checkpoint: Path, tmp_path: Path) -> None:
    check_same_recipe(tmp_path, checkpoint, {"bits": {"budget": "banana"}}, [])  # refused before its search
    check_same_recipe(tmp_path, checkpoint, {"bits": {"budget": "3bit"}}, [])
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "scores.jsonl").write_text("")
    check_same_recipe(tmp_path, checkpoint, {"bits": {"budget": "3bit"}}, [])
    with pytest.raises(ValueError, match="holds another recipe"):
        check_same_recipe(tmp_path, checkpoint, {"bits": {"budget": "4bit"}}, [])


def test_found_is_trained_beside_the_modes_and_alone(checkpoint: Path, found: Path, tmp_path: Path) -> None:
    output = f"output={tmp_path}"
    assert main(["finetune", str(found), str(checkpoint), *TRAIN, "run=beside", output]) == 0
    results = json.loads((tmp_path / "beside" / "results.json").read_text())
    assert set(results["modes"]) == {"found-2_5bit", "2", "4", "32"}
    before, beside = load(checkpoint), load(tmp_path / "beside" / "best.ckpt")
    beside.set_bits("found-2_5bit")
    assert [layer.bits.name for layer in beside.layers().values()][1] == "w2a4"
    assert not torch.equal(*(next(iter(network.layers().values())).weight for network in (before, beside)))
    # alone: the norms of other modes are not touched (LeNet has none, so its step sizes tell)
    assert main(["finetune", "2", str(checkpoint), "--alone", *TRAIN, "run=alone", output]) == 0
    alone = load(tmp_path / "alone" / "best.ckpt")
    steps = {
        bits: [
            network.layers()["conv2"].weight_quantizer.levels[bits].scale.sum().item()
            for network in (before, alone)
        ]
        for bits in ("2", "4")
    }
    assert steps["4"][0] == steps["4"][1]
    assert steps["2"][0] != steps["2"][1]
    assert set(json.loads((tmp_path / "alone" / "results.json").read_text())["modes"]) == {"2", "32"}
    rows = (tmp_path / "alone" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/top1/mean")
    own = rows[0].split(",").index("val/top1/2")
    means = [row.split(",") for row in rows[1:] if row.split(",")[column]]
    assert means
    assert all(row[column] == row[own] for row in means)  # the best checkpoint is the best in mode 2


def test_settings_come_from_the_checkpoint_and_the_users_count_more(checkpoint: Path, found: Path) -> None:
    words = settings(str(found), checkpoint, ["schedule.epochs=7", "data.batch_size=8", "run=mine"])
    assert {"data=fake", "data.image_size=12", "model=lenet5", "quantizer=lsq", "bits.modes=[2,4,32]"} <= {
        *words
    }
    assert [word for word in words if word.startswith(("run=", "data.batch_size="))] == [
        "data.batch_size=8",
        "run=mine",
    ]
    assert not [word for word in words if word.startswith(("seed", "data.seed"))]
    other = settings(str(found), checkpoint, ["data=mnist"])
    assert [word for word in other if word.startswith("data")] == ["data=mnist"]
    assert "scheme.sampler.modes=[found-2_5bit]" in settings(str(found), checkpoint, [], alone=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.yaml"], "there is no assignment file nothing.yaml"),
        (["3"], "has no mode 3; it has 2, 4, 32"),
        (["2", "epochs=3"], "did you mean schedule.epochs=3?"),
        (["2", "finetune=3", "start=null"], "finetune needs the checkpoint to start from"),
        (["2", "bits.modes=[2,4]"], "has bits.modes=['2', '4', '32'], asked for is ['2', '4']"),
        (["2", "model.options={img_size:14}"], "has model.options.img_size=12, asked for is 14"),
        (["2", "scheme=only"], "name some, as scheme.sampler.modes=[found]"),
        (["2", "scheme=only", "scheme.sampler.modes=[5]"], "the network has no mode 5; it has 2, 4, 32"),
    ],
)
def test_bad_words(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = ["finetune", words[0], str(checkpoint), *words[1:], f"output={tmp_path}", "trainer=cpu"]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".yaml"]


def test_a_recipe_has_every_option_of_a_search() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_search(commands)
    options = vars(commands.choices["search"].parse_args(["bits", "some.ckpt"])).keys()
    others = {"part", "checkpoint", "data", "output", "run"}
    assert set(recipe.composed([])["bits"]) == options - others


def test_a_recipe_within_two_limits(checkpoint: Path, tmp_path: Path) -> None:
    own = ["search.bits.budget={bytes:3bit,bops:3bit}", "search.bits.methods=[uniform,greedy]"]
    own += ["search.bits.activations=[2,4]", "search.bits.evaluations=2", "search.bits.images=8"]
    phases = recipe.Phases(checkpoint, tmp_path / "new", recipe.composed(own), [], [])
    assert phases.search() == 0
    about = yaml.safe_load((tmp_path / "new" / "found.yaml").read_text())["about"]
    assert (about["method"], about["budget"]) == ("greedy", "bytes=3bit bops=3bit")


def test_a_recipe_for_certified_radii_trains_with_the_noise_that_it_scores_with() -> None:
    one = recipe.composed(["search=certified"])
    assert one["bits"]["objective"] == "kl"
    assert one["finetune"]["train"] == {"teacher": "start", "noise_sigma": one["bits"]["noise"]}
    louder = recipe.composed(["search=certified", "search.bits.noise=0.5"])
    assert louder["finetune"]["train"]["noise_sigma"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schedule.epoch=3"], "there is no setting 'schedule.epoch'"),
        (["train.noise_sigma=-1"], "noise_sigma is -1"),
        (["search.export=foo"], "format 'foo' is unknown"),
        (["search.export=[onnx,foo]"], "format 'foo' is unknown"),
        (["search.compare=maybe"], "search.compare is 'maybe'; it is true or false"),
        (["search.bits.budget=[3bit,6bit]"], "a recipe has one budget, not 3bit,6bit"),
        (["search=bytes_a4", "search=bops"], "search= names 2 recipes (bytes_a4, bops); give one"),
    ],
)
def test_a_recipe_is_refused_before_its_search(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["recipe", str(checkpoint), *TRAIN, *words, "--output", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_null_leaves_the_default_of_a_search(checkpoint: Path, tmp_path: Path) -> None:
    own = [f"search.bits.{key}=null" for key in ("objective", "seed")]
    own += ["search.bits.methods=[uniform]", "search.bits.evaluations=1", "search.bits.images=8"]
    phases = recipe.Phases(checkpoint, tmp_path / "new", recipe.composed(own), [], [])
    assert phases.search() == 0
    assert (tmp_path / "new" / "found.yaml").is_file()


def test_finetuning_keeps_how_the_network_was_quantized(
    calibrated: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = calibrated("lenet5", [4, 32], Fake(**DATA), img_size=12)  # type: ignore[arg-type]
    contents = torch.load(path, weights_only=True)
    contents["quantizable"]["quantize"]["first_last"] = "mode"
    contents["quantizable"]["quantize"]["overrides"] = {"conv2": {"bits": 4}}
    other = tmp_path / "other.ckpt"
    torch.save(contents, other)
    words = settings("4", other, [])
    assert {"bits.first_last='mode'", "bits.overrides={conv2:{bits:4}}"} <= set(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=words)
    assert cfg.bits.overrides == {"conv2": {"bits": 4}}
    assert main(["finetune", "4", str(path), "bits.first_last=float", f"output={tmp_path}", *TRAIN]) == 2
    assert "has bits.first_last=8, asked for is float" in capsys.readouterr().err


class Killed(BaseException):
    """Ends a process between two of its steps, as a kill does: nothing catches it."""


def killed_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, calls: int) -> None:
    """The call after ``calls`` of a method ends the process before it does anything."""
    real, left = getattr(owner, method), [calls]

    def limited(self: Any, *args: Any, **options: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(self, *args, **options)

    monkeypatch.setattr(owner, method, limited)


def test_a_recipe_killed_in_each_phase_gives_what_one_that_was_not_gives(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recipe", str(checkpoint), "search.bits.budget=3bit", "search.bits.images=8", *TRAIN]
    words += [
        "search.compare=false",
        "search.bits.evaluations=4",
        "search.bits.norm_batches=1",
        "search.bits.methods=greedy",
    ]
    assert main([*words, "search.export=null", "--output", str(tmp_path / "whole")]) == 0
    words += ["search.export=[onnx,qz]", "--output", str(tmp_path / "killed")]

    kills: list[tuple[type, str, int]] = [
        (Journal, "add", 2),  # two scores are kept
        (recipe.Phases, "evaluate", 0),
        (AtomicCheckpointIO, "save_checkpoint", 2),  # best and last of the first epoch
        (recipe.Phases, "export", 0),
    ]
    exports: list[tuple[str, str]] = []  # what exporting does is tested elsewhere, and takes its time
    monkeypatch.setattr(
        "quantizable.cli.export.run", lambda args: exports.append((args.bits, args.format)) or 0
    )
    for owner, method, calls in kills:
        with monkeypatch.context() as patch:
            killed_after(patch, owner, method, calls)
            with pytest.raises(Killed):
                main(words)
    assert main(words) == 0
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (whole / "summary.json").read_text() == (killed / "summary.json").read_text()
    assert (
        yaml.safe_load((whole / "found.yaml").read_text())["bits"]
        == yaml.safe_load((killed / "found.yaml").read_text())["bits"]
    )
    names = {"found.yaml", "uniform.yaml", "pareto.png", "bits.png", "recipe.json"}
    assert names <= {path.name for path in killed.iterdir()}
    assert exports == [("found,4", "qz"), ("found", "onnx")]  # a .qz file holds a uniform mode, too
