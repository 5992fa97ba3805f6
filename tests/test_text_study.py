"""The study on text: its tables and what they say of the findings, on results made by hand."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_1samp

from quantizable.assess.corruptions.words import Words
from quantizable.assess.texts import Texts
from quantizable.training.configuration import read_settings
from tests.tiny import CONF, config

sys.path.insert(0, str(CONF.parent / "benchmarks"))

import text_study
import text_tables


def one_set(differs: float, modes: tuple[str, ...] = ("2", "4", "8")) -> dict[str, Any]:
    return {
        "texts": 10,
        "accuracy": dict.fromkeys((*modes, "32"), 0.8),
        "differs": dict.fromkeys(modes, differs),
    }


def cell(seed: int, data: str, standard: float, alone: float) -> dict[str, Any]:
    """Differences of 0.01 on the test texts, and these under both kinds of shift."""

    def sets(shifted: float, *modes: str) -> dict[str, Any]:
        names = ("yelp", "typos 3") if data != "trec" else ("typos 3",)
        return {"test": one_set(0.01, *([modes] if modes else []))} | {
            name: one_set(shifted, *([modes] if modes else [])) for name in names
        }

    fixed = {"images": 10, "before": 5, "persisting": 2, "new": 1, "accuracy": [0.8, 0.9]}
    auroc = {"margin": 0.9, "gini": 0.8, "least_confidence": 0.9, "entropy": 0.7}
    about = {"indicators": dict.fromkeys("248", auroc), "repair": dict.fromkeys("248", fixed)}
    point = {"escalated": 0.1, "accuracy": 0.8, "disagreement": 0.02, "bops": 3e6}
    strategies: dict[str, Any] = {
        name: {"sets": sets(standard), **about} for name in ("standard", "switchable")
    }
    strategies["switchable"]["cascade"] = {"2 then 8": [point]}
    strategies |= {name: {"sets": sets(standard)} for name in ("mixup", "adversarial")}
    strategies |= {f"{mode} alone": {"sets": sets(alone, f"{mode} alone")} for mode in "248"}
    strategies["32 alone"] = {"sets": sets(alone, "32 alone")}
    return {"model": "lstm", "data": data, "seed": seed, "strategies": strategies}


CELLS = [cell(0, "sst2", 0.05, 0.02), cell(1, "sst2", 0.07, 0.03), cell(0, "trec", 0.05, 0.09)]


def test_an_interval_is_that_of_a_t_test() -> None:
    values = [0.1, 0.4, 0.25, 0.3]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert text_tables.interval(values)[1:] == pytest.approx((expected.low, expected.high))
    assert text_tables.interval([0.1]) == (0.1, float("-inf"), float("inf"))


def test_tables_hold_means_and_deviations_over_seeds() -> None:
    rows = {(row["mode"], row["strategy"]): row for row in text_tables.disagreements(CELLS)}
    assert rows["4", "standard"]["yelp"] == "6.00 ± 1.41"  # of 5 and 7
    assert rows["4", "alone"]["typos 3"] == "2.50 ± 0.71"
    assert rows["4", "alone"]["test"] == "1.00 ± 0.00"
    first = next(text_tables.accuracies(CELLS))
    assert first["switchable"] == "80.00 ± 0.00"
    assert first["switchable - alone"] == "0.00 (0.00 to 0.00)"
    fixed = next(text_tables.repairs(CELLS))
    assert [fixed[key] for key in ("cells", "texts", "before", "persisting", "new", "after")] == [
        3,
        30,
        15,
        6,
        3,
        9,
    ]
    kinds = {row["classes"] for row in text_tables.indicators(CELLS)}
    assert kinds == {"2", "6 (TREC)"}
    assert next(text_tables.cascades(CELLS))["10⁶ bit operations"] == "3.00 ± 0.00"


def test_the_report_goes_between_its_marks(tmp_path: Path) -> None:
    page, about = tmp_path / "text.md", {"command": "c", "date": "d", "torch": "t", "cpu": "p", "threads": 1}
    page.write_text("before\n<!-- text study -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        text_tables.write(page, [{**one, "machine": about} for one in CELLS])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], lines.count("<!-- end -->")) == ("before", "after", 1)
    assert "old" not in lines
    assert lines.count("### The margin is the best indicator?") == 1


def test_findings_say_how_often_and_how_much() -> None:
    stable = list(text_tables.most_stable(CELLS))
    assert stable[0].startswith("least disagreement in 6 rows (cell, mode)")
    assert stable[0].endswith("standard in 0, mixup in 0, adversarial in 0, alone in 6")
    assert "alone minus standard, mode 2, points of disagreement under shift: -3.50 (" in stable[1]
    grows = list(text_tables.grows(CELLS))
    assert grows[0].startswith("standard, natural: 5.00 (")
    assert grows[0].endswith("more in 6 of 6 (cell, mode)")
    best = list(text_tables.best_indicator(CELLS))
    assert "six classes: AUROC of the margin minus that of entropy, points: 20.00" in best
    first = next(text_tables.repaired(CELLS))
    assert first.startswith("standard: of 45 disagreements 27 are repaired, 9 are new")


@pytest.mark.parametrize("name", ["standard", "mixup", "adversarial", "switchable", "2"])
def test_every_run_is_a_configuration_that_training_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(args: Namespace, name: str, *words: str) -> tuple[Path, dict[str, Any]]:
        asked.append(words)
        return tmp_path / name, {}

    monkeypatch.setattr(text_study, "run", run)
    monkeypatch.setattr(text_study, "float_weights", lambda checkpoint: checkpoint.with_name("float.pth"))
    args = Namespace(data=tmp_path, output=tmp_path)
    text_study.trained(args, "gru", "sst2", 1, name)
    cfg = read_settings(config(tmp_path, *asked[-1], small=False))
    assert cfg["seed"] == 1
    assert cfg["model"]["name"] == "gru"
    assert cfg["data"]["val"] == "stsa.binary.dev"
    assert (cfg["model"]["weights"] is None) == (name in text_study.FLOAT)
    assert cfg["bits"]["modes"] == {"switchable": [2, 4, 8, 32], "2": [2]}.get(name, [32])


def test_answers_come_in_the_order_of_the_texts() -> None:
    def first_word(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(ids[:, 0], 9).float() * 50

    ids = torch.tensor([[3, 1, 1], [4, 0, 0], [5, 1, 0], [6, 0, 0]])
    texts = Texts(ids, torch.zeros(4), Words(("",) * 9))
    assert text_study.answers({"a": first_word}, texts, batch=2)["a"].argmax(1).tolist() == [3, 4, 5, 6]


def test_files_are_read_without_lines_of_other_classes_or_without_words(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("1 good\n0 \n1 bad , \u2028 yes\n2 other\n")
    (tmp_path / "last").write_text("a chat\t0\ngood \t1\nbad\t0\nodd\t2\n")
    texts, labels = text_study.read(tmp_path / "first", 0)
    assert texts == ["good", "bad , \u2028 yes"]
    assert labels.tolist() == [1, 1]
    texts, labels = text_study.read(tmp_path / "last", 1)
    assert texts == ["good ", "bad"]
    assert labels.tolist() == [1, 0]
