"""One page of what run folders hold: which tabs there are, what they say, what they warn of."""

import json
import shutil
from pathlib import Path

import pytest

from quantizable.cli import main
from quantizable.report.build import page
from quantizable.report.charts import overlap_warning, overlapping
from quantizable.report.found import Found, find
from quantizable.report.groups import group, joined
from quantizable.report.page import Chart, Grid, Tab
from quantizable.report.tab_certificates import certificates
from quantizable.report.tab_cost import cost
from quantizable.report.tab_modes import _warning, modes
from quantizable.report.tab_training import training
from tests.cli.test_compare import write_run

MAKERS = (training, modes, cost, certificates)
COST = """mode,bops,weight_bytes,openvino_ms,top1
2,1000,10,0.5,0.8
8,16000,40,0.75,0.9
"""
LAYERS = "mode,layer,bops\n2,stem,400\n2,head,600\n8,stem,6400\n8,head,9600\n"


def certificate(status: str, low: float, high: float) -> str:
    query = {"property": "difference", "modes": ["32", "4"], "output": 1, "eps": 0.5}
    verdict = {"status": status, "bound": [low, high], "method": "milp", "seconds": 1.25}
    return json.dumps(query | verdict)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with all kinds of results but an assessment, for which see test_assess.py."""
    folder = write_run(tmp_path / "runs" / "a", 0, 1, {"2": 0.80, "8": 0.89, "32": 0.90})
    results = json.loads((folder / "results.json").read_text()) | {"images": 1000}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "metrics.csv").write_text(
        "epoch,val/top1/2,val/top1/8,val/top1/32,val/top1/lowest,val/top1/mean,train/loss/2\n"
        "0,0.5,0.6,0.7,0.5,0.6,\n0,,,,,,1.5\n"
    )
    for name in ("cost", "verify", "search"):
        (folder / name).mkdir()
    (folder / "cost" / "cost.csv").write_text(COST)
    (folder / "cost" / "layers.csv").write_text(LAYERS)
    (folder / "verify" / "certificate-0.json").write_text(certificate("proved", -0.25, 0.25))
    (folder / "verify" / "certificate-1.json").write_text(certificate("refuted", -1.0, float("inf")))
    work = {"samples_per_image": 100.0, "seconds": 2.0}
    bits = {
        mode: {"acr": 0.3, "certified_accuracy": {"0.0": share, "0.25": share / 2}} | work
        for mode, share in (("2", 0.5), ("8", 0.6))
    }  # fmt: skip
    about = {"sigma": 0.25, "alpha": 0.001, "images": 50, "bits": bits}
    (folder / "search" / "certified.json").write_text(json.dumps(about))
    return folder


def found_in(*folders: Path) -> Found:
    found, runs = find(folders)
    found.runs = group(runs)
    return found


def names_of(folder: Path) -> list[str]:
    made = [make(found_in(folder)) for make in MAKERS]
    return [tab.name for tab in made if tab is not None]


def charts(tab: Tab | None) -> dict[str, Chart]:
    assert tab is not None
    return {part.title: part for part in tab.parts if isinstance(part, Chart)}


def grids(tab: Tab | None) -> dict[str, Grid]:
    assert tab is not None
    return {part.title: part for part in tab.parts if isinstance(part, Grid)}


def test_there_is_a_tab_for_what_there_is(run: Path) -> None:
    assert names_of(run) == ["training", "modes", "cost", "certificates"]
    (run / "metrics.csv").unlink()
    (run / "cost" / "cost.csv").unlink()
    assert names_of(run) == ["modes", "certificates"]


def test_every_chart_says_in_a_sentence_what_it_shows(run: Path) -> None:
    every = [chart for make in MAKERS for chart in charts(make(found_in(run))).values()]
    assert len(every) == 9
    for chart in every:
        assert chart.says.endswith(".")
        assert len(chart.says.split()) > 5
        json.dumps(chart.plain, allow_nan=False)


def test_charts_are_what_plotly_takes(run: Path) -> None:
    graph = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")
    for make in MAKERS:
        for chart in charts(make(found_in(run))).values():
            graph.Figure(chart.plain)  # refuses a property that plotly does not know


def test_one_epoch_is_a_point_of_each_mode(run: Path) -> None:
    data = charts(training(found_in(run)))["Validation accuracy"].data
    assert [(one["name"], one["x"], one["y"]) for one in data] == [
        ("mode 2", [0], [50]), ("mode 8", [0], [60]), ("mode 32", [0], [70])
    ]  # fmt: skip
    assert {one["mode"] for one in data} == {"lines+markers"}
    assert charts(training(found_in(run)))["Training loss"].data[0]["y"] == [1.5]


def test_modes_that_cannot_be_told_apart_are_named(run: Path) -> None:
    """Wilson intervals of 1000 images: 2 bits 77.4 to 82.4, 8 bits 86.9 to 90.8, 32 bits 88.0 to 91.7."""
    chart = charts(modes(found_in(run)))["Accuracy against bits"]
    assert "mode 8 and mode 32" in chart.warning
    assert "mode 2" not in chart.warning
    error = chart.data[0]["error_y"]
    assert error["arrayminus"] == pytest.approx([2.59, 2.10, 2.02], abs=0.01)
    assert error["array"] == pytest.approx([2.37, 1.79, 1.71], abs=0.01)
    rows = grids(modes(found_in(run)))["Top-1 by mode"].rows
    assert rows[0][:4] == ["a", "2", "80.00", "77.41 to 82.36"]
    assert not any(isinstance(cell, list) for row in rows for cell in row)


def test_intervals_overlap_where_one_reaches_the_next() -> None:
    named = [("c", (3.0, 2.5, 3.5)), ("a", (1.0, 0.5, 1.5)), ("b", (2.0, 1.5, 2.4)), ("d", None)]
    assert overlapping(named) == [("a", "b")]
    assert overlap_warning(named[:2], "is better") == ""
    assert overlap_warning(named, "is better").endswith(
        "a and b. Which of them is better is not certain from these data."
    )


def test_a_warning_does_not_list_hundreds() -> None:
    many = [(f"run{i}", (i / 100, 0.0, 1.0)) for i in range(20)]
    warning = overlap_warning(many, "is better")
    assert warning.count(" and ") == 6 + 1
    assert "and 13 pairs more" in warning  # 19 neighbors, 6 named


def test_cost_shows_accuracy_where_it_is_known(run: Path) -> None:
    found = found_in(run)
    data = charts(cost(found))["Accuracy against bit operations for one image"].data[0]
    assert (data["x"], data["y"], data["text"]) == ([1000, 16000], [80, 90], ["mode 2", "mode 8"])
    assert charts(cost(found))["Latency"].data[0]["y"] == [0.5, 0.75]
    layers = charts(cost(found))["Bit operations by layer"].data
    assert [(one["name"], one["x"], one["y"]) for one in layers] == [
        ("mode 2", ["stem", "head"], [400, 600]), ("mode 8", ["stem", "head"], [6400, 9600])
    ]  # fmt: skip
    (run / "cost" / "cost.csv").write_text(COST.replace("0.8\n", "\n"))
    assert charts(cost(found_in(run)))["Bit operations for one image"].data[0]["y"] == [1000, 16000]


def test_verdicts_and_radii(run: Path) -> None:
    tab = certificates(found_in(run))
    chart = charts(tab)["Verdicts: 1 proved, 1 refuted, 0 unknown"]
    assert [(one["name"], one["base"], one["x"]) for one in chart.plain["data"]] == [
        ("proved", [-0.25], [0.5]), ("refuted", [-1.0], [None])
    ]  # fmt: skip
    assert [shape["x0"] for shape in chart.layout["shapes"]] == [-0.5, 0.5]
    assert "mode 2 and mode 8" in charts(tab)["Certified accuracy"].warning  # of 50 images: 25 and 30
    assert grids(tab)["Certificates of a/verify"].rows[1][1] == "refuted"


def test_runs_of_several_folders_are_compared(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs" / "b", 0, 7, {"2": 0.6, "32": 0.7})
    chart = charts(modes(found_in(run, other)))["Accuracy against bits"]
    assert [(one["name"], one["x"]) for one in chart.data] == [
        ("schedule.epochs=1", ["2", "8", "32"]), ("schedule.epochs=7", ["2", "32"])
    ]  # fmt: skip
    assert len(charts(training(found_in(run, other)))["Validation accuracy"].data) == 2


def test_an_evaluation_in_a_runs_folder_is_no_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "evaluation").mkdir()
    results = {"checkpoint": "x", "set": "val", "norm_batches": 0, "modes": {"4": {"top1": 0.5, "loss": 1.0}}}
    (run / "evaluation" / "results.json").write_text(json.dumps(results))
    tab = modes(found_in(run))
    assert grids(tab)["a/evaluation: evaluated on the val set"].rows == [["4", "50.00", "1.0000"]]
    monkeypatch.setattr("quantizable.report.page.plotly_script", lambda: "")
    assert "No agreement: quantizable assess" in page("a", found_in(run))


def test_the_command_writes_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    output = tmp_path / "new" / "page.html"
    assert main(["report", f"name={run}", "--output", str(output)]) == 0
    text = output.read_text()
    assert all(f'id="to-{name}"' in text for name in ("training", "modes", "cost", "certificates"))
    assert 'id="to-agreement"' not in text
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "there is no folder"),
        (["empty"], "holds no finished run"),
        (["bad"], "damaged"),
        (["no*"], "nothing fits"),
    ],
)
def test_bad_folders_are_one_line(
    tmp_path: Path, monkeypatch, capsys, words: list[str], message: str
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quantizable.report.build.plotly_script", lambda: "")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "assessment.json").write_text("{")
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_given_twice_is_shown_once(run: Path) -> None:
    once = modes(found_in(run))
    for given in ([run, run], [run, run.parent], [run.parent / "." / "a", run / ".." / "a"]):
        assert modes(found_in(*given)) == once
        assert cost(found_in(*given)) == cost(found_in(run))
        assert certificates(found_in(*given)) == certificates(found_in(run))


def test_results_in_folders_of_one_name_are_both_shown(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine" / "a"
    shutil.copytree(run, other)
    (other / "cost" / "cost.csv").write_text(COST.replace("0.8\n", "0.7\n"))
    found = found_in(run, other)
    assert list(found.costs) == ["runs/a/cost", "mine/a/cost"]
    assert [rows[0]["top1"] for rows in found.costs.values()] == ["0.8", "0.7"]
    assert list(found.layers) == list(found.costs)
    assert [len(held) for held in found.certificates.values()] == [2, 2]
    assert len(found.certified) == 2
    assert grids(modes(found))["Top-1 by mode"].rows[0][-1] == "runs/a, mine/a"


def test_modes_of_one_run_are_compared_beside_other_runs_too(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs" / "b", 0, 7, {"2": 0.6, "32": 0.7})
    warning = charts(modes(found_in(run, other)))["Accuracy against bits"].warning
    # of 1000 images: 8 bits 86.9 to 90.8, 32 bits 88.0 to 91.7; the other run does not say of how many
    assert warning.startswith("95 % intervals overlap: modes of schedule.epochs=1: 8 and 32. Which of them")


def test_overlaps_of_several_runs_are_told_by_mode_and_by_run() -> None:
    """The name of a run stands once, and each pair of its modes behind it."""
    of = {"a": {"2": (0.5, 0.4, 0.6), "4": (0.6, 0.5, 0.7), "8": (0.9, 0.8, 1.0)}}
    of["b"] = dict.fromkeys(("2", "4", "8"), (0.95, 0.85, 1.0))
    intervals = {(label, mode): one for label, modes in of.items() for mode, one in modes.items()}
    assert _warning(intervals, ["2", "4", "8"], ["a", "b"]) == (
        "95 % intervals overlap: in mode 8: a and b. Which of them is more accurate is not certain from "
        "these data. 95 % intervals overlap: modes of a: 2 and 4; modes of b: 2 and 4, 4 and 8. Which of "
        "them is more accurate is not certain from these data."
    )


def test_runs_of_few_epochs_have_no_half_epochs(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs" / "b", 0, 2, {"2": 0.85, "32": 0.7})
    chart = charts(training(found_in(run, other)))["Validation accuracy"]
    assert chart.layout["xaxis"]["dtick"] == 1
    names = [line["name"] for line in chart.data]
    assert any(f"({name})" in chart.says for name in names)  # what the legend calls it


def test_settings_that_change_no_result_make_no_groups(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs" / "b", 1, 1, {"2": 0.8, "8": 0.9, "32": 0.9})
    results = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(
        json.dumps(results | {"config": results["config"] | {"train": {"histograms_every": 2}}})
    )
    assert len(found_in(run, other).runs) == 1


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize(
    ("file", "contents", "words"),
    [
        ("metrics.csv", "epoch,val/top1/2,val/top1/mean\nx,y,z\n", "metrics.csv is damaged"),
        ("metrics.csv", "epoch,val/top1/2,val/top1/mean\n1,0.5,abc\n", "metrics.csv is damaged"),
        ("metrics.csv", "epoch,train/loss/2\n1,1.0,3\n2,b\n", "metrics.csv is damaged"),
        ("results.json", {"modes": {"2": {"top1": None}}}, "top-1 of mode 2 is None"),
        ("results.json", {"modes": {"2": {"top1": float("nan")}}}, "top-1 of mode 2 is nan"),
        ("results.json", {"modes": {"2": {"top1": 80.0}}}, "top-1 of mode 2 is 80.0"),
        ("results.json", {"modes": {}}, "it has no modes"),
        ("results.json", {"modes": {"two bits": {"top1": 0.5}}}, "two"),
        ("results.json", {"seed": "1"}, "its seed"),
    ],
)
def test_damaged_results_are_one_line(
    tmp_path: Path, monkeypatch, capsys, command: str, file: str, contents: object, words: str
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("quantizable.report.build.plotly_script", lambda: "")
    folder = write_run(tmp_path / "a", 0, 1, {"2": 0.8})
    if isinstance(contents, dict):
        contents = json.dumps(json.loads((folder / file).read_text()) | contents)
    (folder / file).write_text(str(contents))
    output = tmp_path / "out"
    assert main([command, str(folder), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert file in error
    assert len(error.strip().splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize("command", ["report", "compare"])
def test_runs_that_have_not_ended_are_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: str
) -> None:
    monkeypatch.setattr("quantizable.report.build.plotly_script", lambda: "")
    for folder in ("cost", "search", "verify"):
        shutil.rmtree(run / folder)
    killed = run.parent / "killed"
    killed.mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (killed / name).write_text("")
    output = run.parent.parent / "out"
    assert main([command, str(run.parent), "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"not finished (no results.json): {killed}." in said
    assert main([command, str(run), "--output", str(output)]) == 0
    assert "not finished" not in capsys.readouterr().out


def test_a_percentage_is_rounded_once(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    results["modes"]["2"]["top1"] = 0.12534820
    (run / "results.json").write_text(json.dumps(results))
    tables = grids(modes(found_in(run)))
    assert tables["Top-1 by mode"].rows[0][2] == tables["All metrics"].rows[0][1] == "12.53"
    assert "seed" in tables["Top-1 by mode"].head


def test_costs_say_what_they_show_and_what_is_not_certain(run: Path) -> None:
    """Intervals of the accuracies are in the table; without them nothing is said of them."""
    plain = charts(cost(found_in(run)))["Accuracy against bit operations for one image"]
    assert plain.says.endswith("from 1,000 in mode 2 to 16,000 in mode 8, 16 times as many.")
    assert "error_y" not in plain.data[0]
    assert plain.warning == ""
    (run / "cost" / "cost.csv").write_text(
        "mode,bops,weight_bytes,openvino_ms,top1,top1_low,top1_high\n"
        "2,1000,10,0.5,0.8,0.77,0.83\n8,16000,40,0.75,0.9,0.87,0.93\n32,99000,80,,0.92,0.89,0.94\n"
    )
    shown = charts(cost(found_in(run)))
    for title in ("bit operations for one image", "bytes of the quantized weights"):
        chart = shown[f"Accuracy against {title}"]
        assert chart.data[0]["error_y"]["array"] == pytest.approx([3, 3, 2])
        assert chart.data[0]["error_y"]["arrayminus"] == pytest.approx([3, 3, 3])
        assert chart.warning.startswith("95 % intervals overlap: mode 8 and mode 32. Which of them")
    assert "openvino from 0.5 in mode 2 to 0.75 in mode 8" in shown["Latency"].says


def test_sentences_say_what_is_shown(run: Path, tmp_path: Path) -> None:
    one = charts(modes(found_in(run)))["Accuracy against bits"].says
    assert "with its 95 % interval: from 80.00 % in mode 2 to 90.00 % in mode 32." in one
    assert "at the end from 50.00 (mode 2) to 70.00 (mode 32)." in (
        charts(training(found_in(run)))["Validation accuracy"].says
    )
    other = write_run(tmp_path / "runs" / "b", 0, 2, {"2": 0.85, "32": 0.7})
    both = charts(modes(found_in(run, other)))["Accuracy against bits"].says
    assert "schedule.epochs=2 in mode 2 (85.00 %)" in both
    assert "schedule.epochs=1 in mode 32 (90.00 %)" in both


def test_a_folder_of_unfinished_runs_names_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "killed").mkdir()
    for name in ("config.yaml", "metrics.csv"):
        (run.parent / "killed" / name).touch()
    for command in ("report", "compare"):
        assert main([command, str(run.parent / "killed")]) == 2
        assert "Left out, as not finished (no results.json):" in capsys.readouterr().err


def test_one_run_goes_by_its_name_everywhere(run: Path) -> None:
    found = found_in(run)
    assert list(found.runs) == ["a"]
    assert list(joined({"a": found.runs["a"]}, found.runs["a"])) == ["a", "a, not named"]


@pytest.mark.parametrize(
    "contents", ["item,price\na,1\n", COST[:-8], COST + "4,1,2,3,4,5,6,7,8,9,10,11,12,13\n"]
)
def test_a_damaged_table_is_named(tmp_path, contents, capsys):
    (tmp_path / "cost.csv").write_text(contents)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cost.csv is damaged, or not written by quantizable cost" in error
    assert error.count("\n") == 1
