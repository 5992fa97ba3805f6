"""The whole command on a tiny trained network, and one clear error for each bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import wandb
from PIL import Image

from quantizable import load
from quantizable.assess import assessment
from quantizable.assess.callables import ModeModel, Pair, SessionModel, mode_models
from quantizable.assess.images import Images, images_of
from quantizable.assess.repair import repair
from quantizable.assess.report import log_wandb, write_report
from quantizable.assess.searchers import DiffChaser, LInf, search_inputs
from quantizable.assess.shifts import shifts
from quantizable.assess.study import Study, study_cascade, study_indicators
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy.guard import Guard
from quantizable.measure.uncertainty import INDICATORS
from quantizable.report.agreement_tables import percent, tables
from quantizable.report.found import find
from quantizable.report.page import Chart, Grid, Note, Picture
from quantizable.report.tab_agreement import agreement
from quantizable.storage.qz import save_qz

DATA = ["data=fake", "data.size=48"]


def test_the_command_leaves_a_whole_report(checkpoint: Path, tmp_path: Path) -> None:
    asked = ["--images", "40", "--corruptions", "shot_noise,stripe", "--severities", "1,5", "--repair", "2"]
    asked += ["--search", "3", "--budget", "8", "--output", str(tmp_path)]
    assert main(["assess", str(checkpoint), *DATA, *asked]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"assessment.json", "agreement.csv", "search.csv"} <= names
    assert not [name for name in names if name.endswith(".part")]
    text = (tmp_path / "assessment.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)  # Infinity and NaN are no JSON
    assert [(one["shift"], one["severity"]) for one in found["shifts"]] == [
        *(("clean", 0), ("shot_noise", 1), ("shot_noise", 5), ("stripe", 1), ("stripe", 5))
    ]
    assert found["shifts"][0]["names"] == ["2", "8", "32"]
    assert found["complete"]
    assert found["bops_per_image"]["2"] < found["bops_per_image"]["8"] < found["bops_per_image"]["32"]
    skipped = [what for what in found["skipped"] if what.startswith("surprise coverage of")]
    # pairs x (pixel searchers, then all), less the two that pursue surprise where one class is all there is
    assert len(found["search"]) == 2 * (6 + 12) - 2 * len(skipped)
    lines = (tmp_path / "agreement.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 * 3  # five sets, three pairs


def test_the_page_shows_curves_pictures_and_tables_from_the_files(tmp_path: Path) -> None:
    pixels = torch.rand(400, 1, 6, 6)
    first = pixels.flatten(1)[:, :4]
    models = {
        "2": lambda x: 4 * x.flatten(1)[:, :4].round(decimals=1),
        "8": lambda x: 4 * x.flatten(1)[:, :4],
    }
    study = Study("two models", ("ant", "bee", "cat", "dog"))
    study.shifts += shifts(models, Images(pixels, first.argmax(1), study.class_names), ["shot_noise"], [1, 3])
    study_indicators(study)
    written = {path.name for path in write_report(tmp_path, study)}
    about = json.loads((tmp_path / "assessment.json").read_text())
    assert about["class_names"] == ["ant", "bee", "cat", "dog"]
    assert {"assessment.json", "agreement.csv"} <= written
    for agreeing, disagreeing in about["roc"]["2"].values():
        assert len(agreeing) == len(disagreeing) <= 100
        assert (agreeing[0], agreeing[-1], disagreeing[0], disagreeing[-1]) == (0, 1, 0, 1)
        assert agreeing == sorted(agreeing)
    tab = agreement(find([tmp_path])[0])
    assert tab is not None
    shown = [part for part in tab.parts if isinstance(part, Picture)]
    assert [part.says for part in shown] == list(about["pictures"].values())
    assert len(shown) == 2  # clean, and the shift that disagrees most
    grids = {part.title: part for part in tab.parts if isinstance(part, Grid)}
    assert list(grids) == [grid.title for grid in tables(study.as_dict())]
    rate = study.shifts[0].agreement.disagreement[0][1]
    assert grids["Agreement with mode 8 (400 images, 95 % intervals)"].rows[0][4] == percent(rate)
    charts = {part.title: part for part in tab.parts if isinstance(part, Chart)}
    assert charts["Disagreement between modes"].data[0]["z"] == [[0, 100 * rate[0]], [100 * rate[0], 0]]
    assert charts["Disagreement under corruption"].data[0]["y"][0] == 100 * rate[0]
    assert charts["Disagreement under corruption"].data[0]["x"] == [0, 1, 3]
    bars = charts["Disagreement under corruption"].data[0]["error_y"]
    assert bars["array"][0] == pytest.approx(100 * (rate[2] - rate[0]))
    assert bars["arrayminus"][0] == pytest.approx(100 * (rate[0] - rate[1]))
    unsure = []
    for severity, one in zip(("0", "1", "3"), study.shifts, strict=True):
        low, high = sorted(one.agreement.accuracy.values())
        unsure += [severity] if low[2] >= high[1] else []
    warning = charts["Accuracy under corruption"].warning
    assert ("mode 2 and mode 8 (severity " + ", ".join(unsure) + ")" in warning) if unsure else not warning
    assert all(chart.says.endswith(".") for chart in charts.values())
    for chart in charts.values():
        json.dumps(chart.plain, allow_nan=False)
    for name in ("one", "two"):
        shutil.copytree(tmp_path, tmp_path.parent / "both" / name)
    tab = agreement(find([tmp_path.parent / "both"])[0])
    assert tab is not None
    titles = [part.title for part in tab.parts if isinstance(part, Chart)]
    assert [title for title in titles if "Distance" in title] == [
        f"both/{name}: Distance between modes" for name in ("one", "two")
    ]


def test_a_guard_answers_with_the_high_mode_where_the_low_one_is_unsure(checkpoint: Path) -> None:
    network, images = load(checkpoint), torch.randn(6, 1, 12, 12)
    rows = {}
    for mode in (8, 32):
        with network.at_bits(mode), torch.no_grad():
            rows[mode] = network(images).softmax(1)
    median = INDICATORS["margin"](rows[8]).median().item()  # the lower of the two middle values
    with torch.no_grad():
        answers, unsure = Guard(8, 32, median).predict(network, images)
    assert unsure.sum() == 4
    torch.testing.assert_close(answers, torch.where(unsure[:, None], rows[32], rows[8]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0"], "--budget 0 finds nothing"),
        (["--psnr", "200"], "200.0 dB is impossible"),
        (["--linf", "-1"], "impossible"),
        (["--bits", "3,32"], "no mode 3"),
        (["--bits", "8"], "at least two"),
        (["--images", "0"], "--images 0"),
        (["--severities", "6"], "--severities 6"),
        (["--corruptions", "hail"], "'hail' is unknown"),
        (["--natural", "other"], "--natural other"),
        (["--natural", "a", "data=fake", "--natural", "a", "data=fake"], "--natural a: there is a set of"),
        (["--natural", "clean", "data=fake"], "--natural clean: there is a set of that name already"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_bad_input_is_one_clear_line(checkpoint: Path, tmp_path: Path, capsys, words, message: str) -> None:  # type: ignore[no-untyped-def]
    output = tmp_path / "report"
    assert main(["assess", str(checkpoint), *DATA, "--output", str(output), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not output.exists()


def test_interrupted_in_the_search_it_writes_what_it_has(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    class Interrupted:
        name = "interrupted"

        def run(self, hunt, generator) -> None:  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    monkeypatch.setattr(assessment, "pixel_searchers", lambda: [Interrupted()])
    asked = ["--corruptions", "none", "--search", "2", "--budget", "5", "--output", str(tmp_path)]
    assert main(["assess", str(checkpoint), *DATA, *asked]) == 130
    found = json.loads((tmp_path / "assessment.json").read_text())
    assert not found["complete"]
    assert [row["searcher"] for row in found["search"]] == ["interrupted"]
    tab = agreement(find([tmp_path])[0])
    assert tab is not None
    assert any("interrupted" in part.text for part in tab.parts if isinstance(part, Note))


def test_clean_images_take_the_same_path_as_in_training(checkpoint: Path) -> None:
    network = load(checkpoint)
    data = Fake(size=48, num_classes=4, in_chans=1, image_size=12)
    batch, labels = next(iter(data.test_dataloader()))
    images = images_of(data)
    assert torch.equal(images.labels[: len(labels)], labels)
    some, same = images_of(data, count=7, seed=3), images.sample(7, seed=3)
    assert len(some) == 7
    assert torch.equal(some.pixels, same.pixels)
    assert torch.equal(some.labels, same.labels)
    for name, model in mode_models(network).items():
        with network.at_bits(name), torch.no_grad():
            torch.testing.assert_close(
                model(images.pixels[: len(batch)]), network(batch), atol=1e-2 if name == "2" else 1e-3, rtol=0
            )
    with pytest.raises(ValueError, match="no mode 4"):
        mode_models(network, [4])
    assert ModeModel(network, 2)(images.pixels[:1]).shape == (1, 4)


def test_the_search_works_on_an_integer_session_against_the_float_network(
    checkpoint: Path, tmp_path: Path
) -> None:
    deploy = pytest.importorskip("quantizable.deploy")
    pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
    network, images = load(checkpoint), images_of(Fake(size=8, num_classes=4, in_chans=1, image_size=12))
    deploy.save_qz(network, tmp_path / "model.qz")
    models = mode_models(network)
    integers = SessionModel(deploy.Session(tmp_path / "model.qz", threads=1), 2)
    torch.testing.assert_close(integers(images.pixels), models["2"](images.pixels), atol=1e-2, rtol=0)
    pair = Pair(models["32"], integers, "integers against float")
    found = search_inputs(DiffChaser(population=4), pair, images.pixels, images.labels, LInf(0.1), budget=8)
    assert (found.spent[~found.success] == 8).all()
    reference, low = found.answers[found.success].unbind(1)
    assert (reference != low).all()


def test_repair_counts_what_persists_and_what_is_new(checkpoint: Path) -> None:
    network = load(checkpoint)
    train = images_of(Fake(size=64, num_classes=4, in_chans=1, image_size=12), "train")
    test = images_of(Fake(size=40, num_classes=4, in_chans=1, image_size=12))
    with torch.no_grad():  # it learned one answer for all noise; centered logits give many that 2 bits change
        network.classifier.bias -= mode_models(network)["32"](train.pixels).mean(0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    outputs = {name: model(test.pixels).argmax(1) for name, model in mode_models(network).items()}
    differed = outputs["2"] != outputs["32"]
    repaired, counts = repair(network, 2, train, test, steps=3)
    now = mode_models(repaired)["2"](test.pixels).argmax(1) != outputs["32"]
    assert counts.before == differed.sum() > 0
    assert counts.persisting == (differed & now).sum()
    assert counts.new == (~differed & now).sum()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match="no mode 3"):
        repair(network, 3, train, test)


def test_a_cascade_needs_no_four_bits(checkpoint: Path) -> None:
    network = load(checkpoint)
    images = images_of(Fake(size=60, num_classes=4, in_chans=1, image_size=12))
    study = Study("two low modes", ())
    study.shifts += shifts(mode_models(network, [2, 8]), images, [])
    study_cascade(study, network, (1, 12, 12))
    assert "cascade" not in study.skipped
    assert study.cascade[-1].bops == pytest.approx(study.bops["2"] + study.bops["8"])


def test_what_cannot_be_repaired_is_refused_before_any_work(checkpoint: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    for part in ("train", "val"):
        for label in "abcd":
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (12, 12), 40 * number).save(tmp_path / part / label / f"{number}.png")
    data = ["data=folder", f"data.root={tmp_path}", "data.val_size=0", "data.num_workers=0"]
    output = tmp_path / "report"
    assert main(["assess", str(checkpoint), *data, "--repair", "1", "--output", str(output)]) == 2
    assert "augmented only; a repair needs data that fit in memory" in capsys.readouterr().err
    assert not output.exists()


def test_a_search_without_a_start_leaves_the_report(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def nowhere(pair, images, count):  # type: ignore[no-untyped-def]
        raise ValueError(f"{pair.name} agrees on no image; there is nothing to search from")

    monkeypatch.setattr(assessment, "agreeing", nowhere)
    asked = ["--corruptions", "none", "--search", "2", "--output", str(tmp_path)]
    assert main(["assess", str(checkpoint), *DATA, *asked]) == 0
    found = json.loads((tmp_path / "assessment.json").read_text())
    assert "agrees on no image" in found["skipped"]["search, 2 against 32"]


def test_the_gradient_searcher_takes_a_qz_file(checkpoint: Path, tmp_path: Path) -> None:
    save_qz(load(checkpoint), tmp_path / "model.qz")
    asked = ["--images", "8", "--corruptions", "none", "--search", "2", "--budget", "4"]
    output = tmp_path / "report"
    words = [str(tmp_path / "model.qz"), *DATA, "data.num_classes=4", "data.in_chans=1", "data.image_size=12"]
    assert main(["assess", *words, *asked, "--output", str(output)]) == 0
    found = json.loads((output / "assessment.json").read_text())
    assert not [what for what in found["skipped"] if what.startswith("gradient")]
    assert {"gradient", "random noise"} <= {row["searcher"] for row in found["search"]}


def test_tables_that_wandb_refuses_are_one_clear_error(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(**options):  # type: ignore[no-untyped-def]
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(OSError, match=r"No API key configured.*wandb login"):
        log_wandb(Study("nothing", ()), "quantizable", "assess")


def test_corruptions_of_a_scene_are_refused() -> None:
    scene = Images(torch.zeros(1, 156, 2, 2), torch.zeros(1))
    assert assessment.corruption_names("all", scene) == []
    with pytest.raises(ValueError, match="156 channels"):
        assessment.corruption_names("fog", scene)
