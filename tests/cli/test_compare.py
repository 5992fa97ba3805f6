"""Runs side by side: groups, means and spreads by hand, and what is written."""

import csv
import importlib
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from quantizable.cli import main
from quantizable.report.charts import wilson
from quantizable.report.groups import group, interval_of, named, table_rows
from quantizable.report.plots import plot_curves
from quantizable.report.runs import Run, find_runs, present_name, read_curves, read_run, split_names

KEPT = Path(__file__).parents[2] / "docs" / "results"


def write_run(folder: Path, seed: int, epochs: int, top1: dict[str, float]) -> Path:
    folder.mkdir(parents=True)
    config = {"seed": seed, "run": folder.name, "data": {"seed": seed}, "schedule": {"epochs": epochs}}
    modes = {mode: {"top1": value, "loss": 1.0} for mode, value in top1.items()}
    results = {"modes": modes, "set": "test", "epochs": epochs, "seed": seed, "config": config}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "metrics.csv").write_text("epoch,val/top1/mean\n0,0.4\n0,\n1,0.5\n")
    return folder


def test_seeds_form_a_group_with_mean_and_sample_deviation(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", 0, 5, {"2": 0.80, "32": 0.90}),
        write_run(tmp_path / "b", 1, 5, {"2": 0.84, "32": 0.92}),
        write_run(tmp_path / "c", 0, 9, {"2": 0.85, "32": 0.95}),
    ]
    rows = table_rows(group(map(read_run, runs)))
    first = rows[0]
    assert (first["group"], first["mode"], first["seeds"]) == ("schedule.epochs=5", "2", [0, 1])
    assert first["top1_mean"] == pytest.approx(82)
    assert first["top1_std"] == pytest.approx(8**0.5, abs=1e-3)  # sqrt(((-2)^2 + 2^2) / (2 - 1))
    assert rows[2]["group"] == "schedule.epochs=9"
    assert rows[2]["top1_std"] is None


def test_a_setting_that_an_older_run_does_not_know_is_one_without_a_value(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, seed, 5, {"2": 0.8}) for seed, name in enumerate("abc")]
    for folder in folders[1:]:
        results = json.loads((folder / "results.json").read_text())
        results["config"]["train"] = {"teacher": None}
        (folder / "results.json").write_text(json.dumps(results))
    assert [len(runs) for runs in group(map(read_run, folders)).values()] == [3]


def test_command_writes_tables_pictures_and_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path / "runs" / "a", 0, 5, {"2": 0.8})
    write_run(tmp_path / "runs" / "b", 0, 6, {"2": 0.7})
    assert main(["compare", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"compare.json", "compare.csv", "modes.png", "bars.png", "curves.png"} <= written
    assert [row["top1_mean"] for row in json.loads((tmp_path / "out" / "compare.json").read_text())] == [
        80,
        70,
    ]
    out = capsys.readouterr().out
    assert "80.00" in out
    assert ("report.html" in written) != ("was not written: the page's charts need plotly" in out)


def test_lists_are_written_as_a_reader_wants_them(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), seed, 5, {"2": 0.8})
    assert main(["compare", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["seeds"], row["epochs"], row["runs"]) == ("0, 1", "5", "0, 1")  # before: [0, 1], [5], ...


def test_intervals_are_of_seeds_or_of_images(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / str(seed), seed, 5, {"2": 0.80 + 0.04 * seed})) for seed in (0, 1)]
    assert interval_of(runs[:1], "2") is None  # one run, and nothing says on how many images
    mean, low, high = interval_of(runs, "2") or (0, 0, 0)
    half = 12.706204736 * 0.02  # t(0.975, 1 degree of freedom); deviation of 0.8 and 0.84 over sqrt(2)
    assert (mean, low, high) == pytest.approx((0.82, 0.82 - half, 1))  # 0.82 + half is above 1
    results = json.loads((tmp_path / "0" / "results.json").read_text()) | {"images": 100}
    (tmp_path / "0" / "results.json").write_text(json.dumps(results))
    # Wilson, by its formula: (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    z, n, p = 1.959963985, 100, 0.8
    center, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    expected = (p, (center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n))
    assert interval_of([read_run(tmp_path / "0")], "2") == pytest.approx(expected)


def test_a_name_makes_a_group_of_networks_for_a_mode_each(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_run(tmp_path / "both", 0, 5, {"32": 0.9, "2": 0.7})
    write_run(tmp_path / "alone_2", 0, 5, {"2": 0.60})
    write_run(tmp_path / "alone_2_again", 1, 5, {"2": 0.64})
    write_run(tmp_path / "alone_32", 0, 5, {"32": 0.8})
    words = [f"alone={tmp_path}/alone_*", str(tmp_path / "both"), "--output", str(tmp_path / "out")]
    assert main(["compare", *words]) == 0
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [(row["group"], row["mode"], row["top1_mean"], row["seeds"]) for row in rows] == [
        ("alone", "2", 62, [0, 1]), ("alone", "32", 80, [0]),
        ("both", "2", 70, [0]), ("both", "32", 90, [0]),
    ]  # fmt: skip
    assert main(["compare", f"alone={tmp_path}/nothing_*"]) == 2
    assert "nothing fits" in capsys.readouterr().err


@pytest.mark.parametrize("contents", [b"{", b'{"modes": {}}', b"[]", b"\xff\xfe"])
def test_bad_results_are_named(tmp_path: Path, contents: bytes, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results.json").write_bytes(contents)
    assert main(["compare", str(tmp_path)]) == 2
    assert "results.json was not written by train.py" in capsys.readouterr().err


def test_an_evaluation_below_a_run_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path / "run", 0, 1, {"4": 0.8})
    (run / "test").mkdir()
    evaluated = {"modes": {"4": {"top1": 0.5}}, "set": "test", "checkpoint": "run/best.ckpt", "images": 8}
    (run / "test" / "results.json").write_text(json.dumps(evaluated))
    assert find_runs([run]) == [run.resolve()]
    assert main(["compare", str(run / "test")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_one_run_shows_a_curve_for_each_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,val/top1/2,val/top1/32,val/top1/lowest,val/top1/mean\n0,,,,\n0,0.5,0.7,0.5,0.6\n1,0.6,0.8,0.6,0.7\n"
    )
    curves = read_curves(tmp_path)
    assert curves == {
        "2": [(0, 0.5), (1, 0.6)], "32": [(0, 0.7), (1, 0.8)], "mean": [(0, 0.6), (1, 0.7)]
    }  # fmt: skip
    run = Run("run", {}, {"modes": {"2": {}, "32": {}}}, curves)
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot",
        lambda _axes, x, y, color, label, marker: drawn.append((label, y, marker)),
    )
    plot_curves(tmp_path / "curves.png", {"all": [run]})
    assert drawn == [("2", [50, 60], None), ("32", [70, 80], None)]
    drawn.clear()
    plot_curves(tmp_path / "curves.png", {"a": [run, run], "b": [run]})
    assert drawn == [("a", [60, 70], None), (None, [60, 70], None), ("b", [60, 70], None)]
    drawn.clear()
    short = Run("run", {}, {"modes": {"2": {}}}, {"2": [(0, 0.5)], "mean": []})
    plot_curves(tmp_path / "curves.png", {"all": [short]})
    assert drawn == [("2", [50], "o")]  # a line of one point is not seen


def test_one_run_of_one_epoch_is_seen_and_its_table_reads(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "pets", 0, 1, {"2": 0.8, "32": 0.9})
    (folder / "metrics.csv").write_text("epoch,val/top1/2,val/top1/32,val/top1/mean\n0,0.8,0.9,0.85\n")
    assert main(["compare", str(folder), "--output", str(tmp_path / "out")]) == 0
    for file in ("report.html", "compare.csv"):
        written = re.sub(r"<(script|style).*?</\1>", "", (tmp_path / "out" / file).read_text(), flags=re.S)
        assert "pets" in written
        assert not re.search(r"\[['\d]", written), "a list of Python"
    blank = tmp_path / "blank.png"
    plot_curves(blank, {"all": [Run("run", {}, {"modes": {"2": {}, "32": {}}}, {"2": [], "32": []})]})
    drawn, nothing = (plt.imread(file) for file in (tmp_path / "out" / "curves.png", blank))
    first = (np.array([0x1F, 0x77, 0xB4]) / 255).reshape(1, 1, 3)  # of matplotlib's cycle: mode 2

    def dots(picture: np.ndarray) -> int:
        return int((np.abs(picture[..., :3] - first) < 0.01).all(-1).sum())

    assert dots(drawn) > dots(nothing) + 20


def test_a_run_before_and_one_after_the_classes_moved_are_of_one_group(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, seed, 5, {"2": 0.8}) for seed, name in enumerate("ab")]
    for folder, home in zip(folders, ("quantizable", "quantizable.training"), strict=True):
        results = json.loads((folder / "results.json").read_text())
        distance = {"_target_": "hydra.utils.get_method", "path": f"{home}.objectives.kl_divergence"}
        results["config"]["scheme"] = {"_target_": f"{home}.schemes.Scheme", "distance": distance}
        (folder / "results.json").write_text(json.dumps(results))
    assert [len(runs) for runs in group(map(read_run, folders)).values()] == [2]


def test_every_class_that_kept_results_name_is_found_by_its_present_path() -> None:
    pattern = re.compile(r"\"(quantizable\.[\w.]+)\"")
    names = {found for file in KEPT.rglob("results.json") for found in pattern.findall(file.read_text())}
    assert names
    for name in sorted(names):
        module, _, attribute = present_name(name).rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_a_legend_holds_short_names(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, 0, 5, {"2": 0.8})) for name in ("a", "b")]
    assert list(named({"all runs": runs[:1]})) == ["a"]
    assert list(named({"all runs": runs})) == ["all runs"]
    assert list(named({"lr=1": runs[:1], "x" * 61: runs[1:]})) == ["lr=1", "b"]
    assert list(named({"x" * 61: runs[:1], "y" * 61: runs[:1]})) == ["a", "y" * 61]  # no group is lost


def test_one_configuration_and_seed_twice_is_one_seed(tmp_path: Path) -> None:
    """A repeated run adds no freedom: its interval stays that of the images."""
    folders = [write_run(tmp_path / name, 0, 5, {"2": value}) for name, value in (("a", 0.8), ("b", 0.82))]
    runs = [read_run(folder) for folder in folders]
    for one in runs:
        one.results["images"] = 100
    (row,) = table_rows(group(runs))
    assert (row["seeds"], row["top1_mean"], row["top1_std"]) == ([0], 81, None)
    assert interval_of(runs, "2") == wilson(0.81, 100)
    other = read_run(write_run(tmp_path / "c", 1, 5, {"2": 0.85}))
    (row,) = table_rows(group([*runs, other]))
    assert (row["seeds"], row["top1_mean"]) == ([0, 1], 83)
    assert row["top1_std"] == pytest.approx(8**0.5, abs=1e-3)  # of 81 and 85


def test_a_run_given_twice_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "a", 0, 5, {"2": 0.8})
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "runs/a", str(tmp_path / "runs"), "--output", "out"]) == 0
    assert json.loads(Path("out/compare.json").read_text())[0]["runs"] == ["a"]


def test_only_repetitions_are_averaged(tmp_path: Path) -> None:
    given = [("limit_train_batches", 1.0), ("limit_train_batches", 0.1), ("compile", True)]
    for number, (key, value) in enumerate(given):
        folder = write_run(tmp_path / f"r{number}", number, 1, {"4": 0.5})
        results = json.loads((folder / "results.json").read_text())
        results["config"]["trainer"] = {"limit_train_batches": 1.0, key: value}
        (folder / "results.json").write_text(json.dumps(results))
    groups = group(read_run(tmp_path / f"r{number}") for number in range(3))
    assert {label: len(runs) for label, runs in groups.items()} == {
        "trainer.limit_train_batches=1.0": 2,
        "trainer.limit_train_batches=0.1": 1,
    }
    folder = write_run(tmp_path / "val", 3, 1, {"4": 0.5})
    results = json.loads((folder / "results.json").read_text())
    results["config"]["trainer"], results["set"] = {"limit_train_batches": 1.0}, "val"
    (folder / "results.json").write_text(json.dumps(results))
    assert [*group([read_run(tmp_path / "r0"), read_run(folder)])] == ["set=test", "set=val"]


def test_settings_that_read_alike_are_two_groups() -> None:
    runs = [Run(name, {"x": value}, {"set": "test"}, {}) for name, value in (("a", 1), ("b", "1"))]
    assert {label: [run.name for run in members] for label, members in group(runs).items()} == {
        "x=1": ["a"],
        'x="1"': ["b"],
    }


def test_folders_may_be_named_by_settings_and_be_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "sweep" / "lr=0.1", 0, 1, {"4": 0.5})
    assert split_names(["sweep/lr=*"]) == ({}, [Path("sweep/lr=0.1")])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "sweep", target_is_directory=True)
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert find_runs([Path("runs")]) == [tmp_path.resolve() / "sweep" / "lr=0.1"]


def test_a_name_may_hold_dollar_signs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, 1, {"4": 0.5})
    write_run(tmp_path / "b", 1, 1, {"4": 0.6})
    assert main(["compare", f"$x_{{y$={tmp_path}/a", f"{tmp_path}/b", "--output", str(tmp_path / "out")]) == 0
