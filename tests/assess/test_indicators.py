"""Indicators and guards on probabilities whose answers are known."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from quantizable.assess.cascade import cascade, choose_guard, thresholds_for
from quantizable.assess.indicators import balanced, indicator_quality
from quantizable.bits import BitMode
from quantizable.deploy.guard import Guard
from quantizable.measure.uncertainty import INDICATORS


def test_the_four_indicators_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]])
    expected = {
        "margin": 1 - 0.5,
        "gini": 1 - (0.49 + 0.04 + 0.01),
        "least_confidence": 0.3,
        "entropy": -sum(x * math.log(x) for x in (0.7, 0.2, 0.1)),
    }
    assert {name: f(p).item() for name, f in INDICATORS.items()} == pytest.approx(expected)


def test_an_indicator_that_separates_scores_one() -> None:
    unsure = torch.tensor([[0.5, 0.4, 0.1]]).repeat(10, 1)
    sure = torch.tensor([[0.9, 0.05, 0.05]]).repeat(30, 1)
    found = indicator_quality(torch.cat((unsure, sure)), torch.arange(40) < 10, resamples=20)
    for quality in found.values():
        assert quality.auroc == quality.aupr == quality.tnr95 == (1.0, 1.0, 1.0)
        assert quality.inputs == 10


def test_auroc_is_that_of_scikit_learn_and_inside_its_interval() -> None:
    p = torch.randn(200, 10).mul(3).softmax(1)
    disagree = torch.rand(200) < INDICATORS["margin"](p)
    index = balanced(disagree, seed=0)
    for name, quality in indicator_quality(p, disagree, seed=0, resamples=50).items():
        expected = roc_auc_score(disagree[index], INDICATORS[name](p[index]))
        assert quality.auroc[0] == pytest.approx(expected, abs=1e-5)
        assert quality.auroc[1] < quality.auroc[0] < quality.auroc[2]


def test_precision_recall_and_tnr_are_those_of_scikit_learn() -> None:
    p = torch.randn(300, 10).mul(3).softmax(1)
    disagree = torch.rand(300) < INDICATORS["margin"](p)
    index = balanced(disagree, seed=0)
    for name, quality in indicator_quality(p, disagree, seed=0, resamples=20).items():
        truth, scores = disagree[index].numpy(), INDICATORS[name](p[index]).numpy()
        assert quality.aupr[0] == pytest.approx(average_precision_score(truth, scores), abs=1e-5)
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert quality.tnr95[0] == pytest.approx(1 - fpr[tpr >= 0.95].min(), abs=1e-5)
        assert quality.tnr95[1] <= quality.tnr95[0] <= quality.tnr95[2]


def test_nothing_to_recognize_is_said_so() -> None:
    with pytest.raises(ValueError, match="1 of 5 inputs disagree"):
        indicator_quality(torch.rand(5, 3), torch.arange(5) < 1)


def test_cascade_counts_accuracy_and_cost_by_hand() -> None:
    low = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8]])  # margins 0.8, 0.2, 0.1, 0.6
    high = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]])
    labels = torch.tensor([0, 1, 1, 1])
    thresholds = thresholds_for(low, [0, 0.25, 0.5, 1])
    points = cascade(low, high, high, labels, (10.0, 40.0), thresholds)
    assert [p.escalated for p in points] == [0, 0.25, 0.5, 1]
    assert [p.accuracy for p in points] == [0.5, 0.75, 1, 1]
    assert [p.disagreement for p in points] == [0.5, 0.25, 0, 0]
    assert [p.bops for p in points] == [10, 20, 30, 50]


def test_the_chosen_guard_separates_and_survives_a_file(tmp_path: Path) -> None:
    low = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.55, 0.45]])
    disagree = torch.tensor([False, False, True, True])
    guard = choose_guard(BitMode(4, 4), BitMode(8, 8), low, disagree)
    assert guard.escalates(low).tolist() == disagree.tolist()
    guard.save(tmp_path / "guard.json")
    assert Guard.load(tmp_path / "guard.json") == guard
    for contents in (b"[1", b"\xff\xfe", b'{"low": 4, "high": 8, "threshold": 0.5, "indicator": "mood"}'):
        (tmp_path / "other.json").write_bytes(contents)
        with pytest.raises(ValueError, match=r"other\.json is no guard"):
            Guard.load(tmp_path / "other.json")
    with pytest.raises(ValueError, match="disagree"):
        choose_guard(BitMode(4, 4), BitMode(8, 8), low, torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no better than chance"):  # it is surest where the modes disagree
        choose_guard(BitMode(4, 4), BitMode(8, 8), low, ~disagree)
    (tmp_path / "null.json").write_text('{"low": 4, "high": 8, "threshold": null}')
    with pytest.raises(ValueError, match="threshold None is no number"):
        Guard.load(tmp_path / "null.json")
