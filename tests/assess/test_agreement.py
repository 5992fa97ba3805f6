"""Counts of planted pairs, and distances against hand-worked values."""

import math

import pytest
import torch

from quantizable.assess.agreement import Flips, agreement, flips, js_distance, mean_interval, share
from quantizable.assess.callables import probabilities
from quantizable.assess.images import Images
from quantizable.assess.shifts import CLEAN, pooled, shifts


def one_hot(*classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_counts_of_a_planted_pair_are_exact() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    found = agreement({"4": one_hot(0, 1, 1, 0, 1, 1), "32": one_hot(0, 0, 1, 1, 2, 0)}, labels)
    # images 1, 3, 4 and 5 differ; the low mode is right on 0 and 2, the reference on 0 to 4
    assert found.disagreement[0][1][0] == found.disagreement[1][0][0] == pytest.approx(4 / 6)
    assert found.disagreement[0][0] == (0.0, 0.0, 0.0)
    assert found.accuracy["4"][0] == pytest.approx(2 / 6)
    assert found.accuracy["32"][0] == pytest.approx(5 / 6)
    assert [rate for rate, _, _ in found.per_class["4"]] == pytest.approx([0.5, 0.5, 1.0])
    assert all(low <= rate <= high for rate, low, high in found.per_class["4"])
    assert found.flips["4"] == Flips(right_to_wrong=3, wrong_to_right=0, wrong_to_other=1)
    assert found.distance[0][1][0] == pytest.approx(4 / 6)  # disjoint rows are at distance 1


def test_flips_tell_the_three_kinds_apart() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0])
    reference, other = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 0, 2, 0, 1])
    assert flips(reference, other, labels) == Flips(1, 1, 1)


def test_js_distance_against_the_definition() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.25, 0.5]])
    m = [0.375, 0.375, 0.25]
    kl_p = 2 * 0.5 * math.log2(0.5 / m[0])
    kl_q = 2 * 0.25 * math.log2(0.25 / m[0]) + 0.5 * math.log2(0.5 / m[2])
    assert js_distance(p, q).item() == pytest.approx(math.sqrt((kl_p + kl_q) / 2))
    assert js_distance(p, p).item() == 0
    assert js_distance(one_hot(0), one_hot(1)).item() == pytest.approx(1)


def test_the_interval_of_a_share_is_that_of_resampling() -> None:
    mask = torch.arange(200) < 30
    rate, low, high = share(mask)
    draws = mask[torch.randint(200, (4000, 200))].float().mean(1)
    assert rate == pytest.approx(0.15)
    expected = draws.quantile(torch.tensor([0.025, 0.975]))
    assert (low, high) == pytest.approx(tuple(expected.tolist()), abs=0.011)  # two images of 200


def test_the_interval_of_a_mean_holds_it_and_is_the_same_again() -> None:
    values = torch.rand(100)
    value, low, high = mean_interval(values, seed=3)
    assert low < value < high
    assert mean_interval(values, seed=3) == (value, low, high)


def test_bad_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        agreement({"4": torch.zeros(0, 3), "32": torch.zeros(0, 3)}, torch.zeros(0))
    with pytest.raises(ValueError, match="model 4 gives NaN"):
        agreement({"4": torch.full((1, 3), float("nan")), "32": one_hot(0)}, torch.zeros(1))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(0, 1, 2, 2), "no images"),
        (torch.full((2, 1, 2, 2), float("nan")), "2 images hold NaN"),
        (torch.full((2, 1, 2, 2), -1.0), "not normalized"),
    ],
)
def test_bad_images_are_refused(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(pixels, torch.zeros(len(pixels)))


def test_shifts_measure_clean_images_first_and_each_severity(planted) -> None:  # type: ignore[no-untyped-def]
    levels = torch.tensor([0.2, 0.51, 0.515, 0.8])
    images = Images(levels.view(-1, 1, 1, 1).expand(-1, 1, 16, 16).contiguous(), torch.tensor([0, 1, 1, 1]))
    models = {"low": planted.quantized, "high": planted.reference}
    measured = list(shifts(models, images, ["stripe", "fog"], [1, 5], natural={"other": images}))
    assert [(one.shift, one.severity) for one in measured] == [
        *((CLEAN, 0), ("stripe", 1), ("stripe", 5), ("fog", 1), ("fog", 5), ("other", 0))
    ]
    assert measured[0].agreement.against_reference("low")[0] == 0.5
    assert measured[0].disagree("low").tolist() == [False, True, True, False]
    shown, answers = measured[0].examples["low"]
    assert torch.equal(shown, images.pixels[1:3])
    assert answers.tolist() == [[1, 0], [1, 0]]  # the reference's answer first
    assert measured[-1].agreement == measured[0].agreement
    outputs, labels = pooled(measured)
    assert len(labels) == len(outputs["low"]) == 24


def test_an_unknown_corruption_is_refused_before_anything_is_measured(planted) -> None:  # type: ignore[no-untyped-def]
    images = Images(torch.rand(1, 1, 16, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="corruption 'rain' is unknown"):
        next(shifts({"a": planted.quantized, "b": planted.reference}, images, ["rain"]))


def test_probabilities_do_not_depend_on_the_batch_size(planted) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.rand(7, 1, 4, 4)
    whole = probabilities({"a": planted.reference}, pixels)["a"]
    torch.testing.assert_close(probabilities({"a": planted.reference}, pixels, 2)["a"], whole)
