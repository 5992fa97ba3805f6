"""``quantizable assess FIRST --against SECOND`` as a user runs it, and a clear error for each bad input."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantizable import load
from quantizable.assess import assessment
from quantizable.assess.pair_assessment import _data
from quantizable.assess.searchers import Diva, Gradient, RandomNoise
from quantizable.cli import main
from quantizable.storage.qz import save_qz
from quantizable.verify import Line, agree_along, graph_of

DATA = ["data=fake", "data.size=48", "data.num_classes=4", "data.in_chans=1", "data.image_size=8"]
FUNCTIONS = """
import torch
def linear(pixels):
    return pixels.flatten(1) @ torch.linspace(-1, 1, 256).view(64, 4)
def soft(pixels):
    return (1.2 * linear(pixels)).softmax(1)
def bare(pixels):
    return linear(pixels).detach()
def three(pixels):
    return linear(pixels)[:, :3]
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pair_functions.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assess(*words: object) -> int:
    return main(["assess", *map(str, words)])


def test_a_pair_of_functions_leaves_the_report_of_modes(functions: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(assessment, "pixel_searchers", lambda: [RandomNoise(), Diva(), Gradient()])
    monkeypatch.setattr(assessment, "relation_searchers", lambda *words: [])
    words = [
        "pair_functions:linear",
        "--against",
        "pair_functions:soft",
        *DATA,
        "--corruptions",
        "shot_noise",
    ]
    asked = [
        "--severities",
        "3",
        "--search",
        "3",
        "--budget",
        "30",
        "--linf",
        "60",
        "--output",
        functions / "out",
    ]
    assert assess(*words, *asked) == 0
    assert "pair_functions:soft gives probabilities" in capsys.readouterr().out
    found = json.loads((functions / "out" / "assessment.json").read_text())
    clean, shifted = found["shifts"]
    assert clean["names"] == ["pair_functions:soft", "pair_functions:linear"]
    # 1.2 times the logits is never another class: the logarithm of the softmax is what gives these distances
    assert clean["disagreement"][0][1][0] == 0
    assert 0 < clean["distance"][0][1][0] < 0.2
    assert shifted["shift"] == "shot_noise"
    rows = {(row["searcher"], row["constraint"]) for row in found["search"]}
    assert {name for name, _ in rows} == {"random noise", "DIVA", "gradient"}
    assert len(rows) == 6
    assert (functions / "out" / "report.html").is_file()


def test_modes_of_two_files_disagree_as_modes_of_one(checkpoint: Path, tmp_path: Path) -> None:
    save_qz(load(checkpoint), tmp_path / "model.qz")
    data = ["data=fake", "data.size=48", "--corruptions", "none"]
    names = [f"{checkpoint}:8", "--against", f"{tmp_path / 'model.qz'}:2"]
    assert assess(*names, *data, "--output", tmp_path / "pair") == 0
    assert assess(checkpoint, "--bits", "2,8", *data, "--output", tmp_path / "modes") == 0
    both = [json.loads((tmp_path / name / "assessment.json").read_text()) for name in ("pair", "modes")]
    pair, modes = (one["shifts"][0] for one in both)
    assert pair["names"] == ["model.qz:2", "best.ckpt:8"]
    assert pair["disagreement"] == modes["disagreement"]
    assert pair["flips"]["model.qz:2"] == modes["flips"]["2"]
    assert [*pair["accuracy"].values()] == [*modes["accuracy"].values()]


def test_a_surrogate_gives_the_gradients(checkpoint: Path, functions: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Two functions without gradients: DIVA finds none in them, nor in one surrogate; the walk takes it."""
    monkeypatch.setattr(assessment, "pixel_searchers", lambda: [Diva(), Gradient()])
    monkeypatch.setattr(assessment, "relation_searchers", lambda *words: [])
    given: list[bool] = []
    searched = assessment.compare_searchers

    def remember(pair, *words):  # type: ignore[no-untyped-def]
        given.append(pair.surrogate is not None)
        return searched(pair, *words)

    monkeypatch.setattr(assessment, "compare_searchers", remember)
    text = FUNCTIONS.replace("256).view(64", "576).view(144")
    (functions / "large_functions.py").write_text(text + "def other(x): return bare(x) + bare(x).sin()\n")
    words = ["large_functions:bare", "--against", "large_functions:other", "--surrogate", checkpoint]
    asked = ["--corruptions", "none", "--search", "2", "--budget", "20", "--output", functions / "out"]
    assert assess(*words, "data=fake", "data.size=48", *asked) == 0
    found = json.loads((functions / "out" / "assessment.json").read_text())
    assert {row["searcher"] for row in found["search"]} == {"gradient"}
    assert all("only one model" in why for what, why in found["skipped"].items() if what.startswith("DIVA"))
    assert given == [True] * 4


def test_what_a_search_left_goes_to_the_prover(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(assessment, "pixel_searchers", lambda: [RandomNoise()])
    monkeypatch.setattr(assessment, "relation_searchers", lambda *words: [])
    words = [checkpoint, "--bits", "8,32", "data=fake", "data.size=48", "--corruptions", "none"]
    asked = ["--search", "3", "--budget", "4", "--linf", "0.01", "--prove", "2", "--output", tmp_path]
    assert assess(*words, *asked) == 0
    found = json.loads((tmp_path / "assessment.json").read_text())
    [counts] = found["proofs"].values()
    row = next(row for row in found["search"] if row["constraint"].startswith("L-inf"))
    assert sum(counts.values()) == row["seeds"]
    assert counts["refuted"] >= round(row["success"][0] * row["seeds"])
    assert counts["proved"] > 0


def test_a_line_is_asked_about_from_the_command_line(checkpoint: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    words = ["verify", str(checkpoint), "--bits", "32,8", "--inputs", str(tmp_path / "pixels.npy")]
    words += ["--line", "brightness", "--radius", "0.001"]
    status = main([*words, "--question", "agreement", "--output", str(tmp_path / "out")])
    rows = json.loads((tmp_path / "out" / "lines.json").read_text())["found"]
    network = load(checkpoint)
    mean, std = (torch.tensor(network.info[key]).view(-1, 1, 1) for key in ("mean", "std"))
    for image, row in zip(pixels, rows, strict=True):
        graphs = [graph_of(network, image.shape, mode) for mode in (32, 8)]
        first, second = (Line.of("brightness", image).before(graph, mean, std) for graph in graphs)
        found = agree_along(first, {"8": second}, -0.001, 0.001)["8"]
        assert (row["status"], row["share"], row["at"]) == (found.status, found.share, found.at)
    assert status == (0 if all(row["status"] == "proved" for row in rows) else 1)
    assert main(words) == 2
    assert "give --question agreement" in capsys.readouterr().err
    np.save(tmp_path / "pixels.npy", 3 * pixels.numpy())
    assert main([*words, "--question", "agreement"]) == 2
    assert "takes pixels in [0, 1], not normalized" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pair_functions:linear", "--against", "pair_functions:linear"], "compared with itself"),
        (["pair_functions:linear", "--against", "model.onx"], "model.onx names no model"),
        (["pair_functions:linear", "--against", "none.onnx"], "there is no file none.onnx"),
        (["pair_functions:linear", "--against", "pair_functions:three"], "must know the same classes"),
        (["pair_functions:linear", "--against", "pair_functions:linaer"], "has no linaer"),
        (["pair_functions:linear", "--against", "no_such_module:f"], "No module named 'no_such_module'"),
        (["pair_functions:linear", "--against", "x.pt2"], "there is no file x.pt2"),
        (["pair_functions:linear", "--against", "pair_functions:bare", "--bits", "4"], "--bits is about one"),
        (
            ["pair_functions:linear", "--against", "pair_functions:bare", "--std", "0"],
            "--std must be above 0",
        ),
        (["x.ckpt", "--surrogate", "pair_functions:bare"], "give the second by --against"),
        (["x.ckpt", "--prove", "3"], "and --search SEEDS"),
    ],
)
def test_bad_input_is_one_clear_line(functions: Path, capsys, words: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    assert assess(*words, *DATA, "--output", functions / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (functions / "out").exists()


def test_images_must_be_named_where_no_model_does(functions: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert assess("pair_functions:linear", "--against", "pair_functions:bare") == 2
    assert "say which images" in capsys.readouterr().err


def test_networks_of_one_set_of_classes_in_two_orders_are_refused() -> None:
    networks = [SimpleNamespace(info={"class_names": names}) for names in (["a", "b"], ["b", "a"])]
    with pytest.raises(ValueError, match="same classes in another order; they cannot be compared"):
        _data(["data=fake", "data.num_classes=2"], networks)  # type: ignore[arg-type]
