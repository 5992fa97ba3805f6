"""Incremental certification against the paper's arithmetic and two planes whose radii are known."""

import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor

from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import ABSTAIN, CertifiedRadius, Smoothing, lower_bound, upper_bound


def plane(offset: float):
    def classify(x: Tensor) -> Tensor:
        side = x[:, 0, 0, 0] - offset
        return torch.stack([-side, side], 1)

    return classify


def test_the_radius_is_that_of_the_lower_bound_less_zeta() -> None:
    smoothing = Smoothing(0.25, n=2000)
    x = torch.full((1, 1, 1), 0.3)
    first, votes = smoothing.certify(plane(0.0), x)
    assert first.selected < 0.99
    second = Incremental(smoothing, samples=500, loss=0.0).certify(plane(0.02), x, 0, first, votes)
    own = smoothing.votes(plane(0.02), x, 0, 1, 500)
    lost = sum(a == first.top != b for a, b in zip(votes[:500].tolist(), own.tolist(), strict=True))
    assert lost > 0
    zeta = upper_bound(lost, 500, 0.001)
    # the formula of the paper, theorem 3: sigma / 2 * (ppf(p - zeta) - ppf(1 - p + zeta))
    expected = 0.125 * (norm.ppf(first.p_lower - zeta) - norm.ppf(1 - first.p_lower + zeta))
    assert second.radius == pytest.approx(expected, rel=1e-9)
    assert 0 < second.radius < first.radius
    assert second.samples == 500


def test_what_the_class_gains_takes_nothing_from_it() -> None:
    """The second plane is further away: it gives the class wherever the first does, and elsewhere too."""
    smoothing = Smoothing(0.25, n=2000)
    x = torch.full((1, 1, 1), 0.3)
    first, votes = smoothing.certify(plane(0.0), x)
    second = Incremental(smoothing, samples=500, loss=0.0).certify(plane(-0.05), x, 0, first, votes)
    assert second.p_lower == pytest.approx(first.p_lower - upper_bound(0, 500, 0.001))


def test_a_confident_image_is_certified_from_its_own_samples() -> None:
    smoothing = Smoothing(0.25, n=2000)
    x = torch.full((1, 1, 1), 2.0)
    first, votes = smoothing.certify(plane(0.0), x)
    second = Incremental(smoothing, samples=300).certify(plane(0.02), x, 0, first, votes)
    assert second.p_lower == pytest.approx(lower_bound(300, 300, 0.002))


@pytest.mark.parametrize(("loss", "own"), [(0.0, False), (0.05, True)])
def test_the_way_is_chosen_by_what_both_promise(loss: float, own: bool) -> None:
    """By hand for a share of 0.9: from 500 samples at 0.002, from 2000 at 0.001 less zeta from 500."""
    incremental = Incremental(Smoothing(0.25, n=2000), samples=500, loss=loss)
    new = beta.ppf(0.002, 450, 51)
    old = beta.ppf(0.001, 1800, 201) - beta.ppf(0.999, 500 * loss + 1, 500 - 500 * loss)
    assert (new >= old) == own
    assert incremental.takes_own_samples(0.9) == own
    assert incremental.takes_own_samples(0.99)


def test_no_certificate_is_larger_than_the_distance_to_the_second_plane() -> None:
    smoothing = Smoothing(0.25, n=500, n0=20)
    draws, too_large = 1000, 0
    for image in range(draws):
        x = torch.full((1, 1, 1), 0.3)
        first, votes = smoothing.certify(plane(0.0), x, image)
        second = Incremental(smoothing, samples=200).certify(plane(0.05), x, image, first, votes)
        too_large += second.radius > 0.25
    assert too_large / draws <= 0.002


def test_where_the_first_mode_abstains_so_does_the_second_without_samples() -> None:
    smoothing = Smoothing(0.25, n=100)
    first = CertifiedRadius(ABSTAIN, 0.0, 0.4, 1, 0.6, 200)
    second = Incremental(smoothing, samples=50).certify(
        plane(0.0), torch.zeros(1, 1, 1), 0, first, torch.ones(100)
    )
    assert (second.predicted, second.radius, second.samples) == (ABSTAIN, 0.0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 8}, "samples is 8"),
        ({"samples": 101}, "more than the 100"),
        ({"alpha_zeta": 0.0}, "alpha_zeta is 0.0"),
        ({"gamma": 0.4}, "gamma 0.4"),
        ({"loss": 1.0}, "loss is 1.0"),
        ({"alpha_zeta": 0.9995}, "below 1"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Incremental(Smoothing(0.25, n=100), **{"samples": 50, **options})


def test_both_failure_probabilities_add_up() -> None:
    assert Incremental(Smoothing(0.25, n=100), 50, alpha_zeta=0.002).failure == pytest.approx(0.003)
