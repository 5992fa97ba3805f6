"""Runs side by side: groups, means and spreads by hand, and what is written."""

import json
from pathlib import Path

import pytest

from quantizable.cli import main
from quantizable.compare import group, read_run, table_rows


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


def test_command_writes_page_with_pictures_inside(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path / "runs" / "a", 0, 5, {"2": 0.8})
    write_run(tmp_path / "runs" / "b", 0, 6, {"2": 0.7})
    assert main(["compare", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "schedule.epochs=6" in page
    assert [row["top1_mean"] for row in json.loads((tmp_path / "out" / "compare.json").read_text())] == [
        80,
        70,
    ]
    assert "80.00" in capsys.readouterr().out


@pytest.mark.parametrize("contents", ["{", '{"modes": {}}', "[]"])
def test_bad_results_are_named(tmp_path: Path, contents: str, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "results.json").write_text(contents)
    assert main(["compare", str(tmp_path)]) == 2
    assert "results.json was not written by train.py" in capsys.readouterr().err


def test_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
