"""Randomized smoothing against closed forms and a classifier whose radius is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from torch import Tensor

from quantizable.certify.smoothing import (
    ABSTAIN,
    ESTIMATION,
    SELECTION,
    Smoothing,
    lower_bound,
    radius,
    upper_bound,
)


def test_all_of_100_000_samples_right_give_3_811_sigma() -> None:
    p = lower_bound(100_000, 100_000, 0.001)
    assert p == pytest.approx(0.001 ** (1 / 100_000), rel=1e-12)
    assert radius(p, 1.0) == pytest.approx(3.811, abs=5e-4)
    assert radius(p, 0.25) == pytest.approx(3.811 / 4, abs=2e-4)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-4, 0.2))
def test_bounds_are_scipys_exact_intervals(counts: tuple[int, int], alpha: float) -> None:
    k, n = counts
    low = binomtest(k, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
    high = binomtest(k, n, alternative="less").proportion_ci(1 - alpha, "exact").high
    assert lower_bound(k, n, alpha) == pytest.approx(low, abs=1e-7)
    assert upper_bound(k, n, alpha) == pytest.approx(high, abs=1e-7)
    assert low <= k / n <= high


def halfspace(x: Tensor) -> Tensor:
    """Class 1 where the first pixel is above 0; the exact radius is the distance to that plane."""
    side = x[:, 0, 0, 0]
    return torch.stack([-side, side], 1)


def test_a_linear_classifier_is_certified_below_its_distance_to_the_plane() -> None:
    # p is normal(distance / sigma); at distance 0.3 and sigma 0.25 it is 0.885, so the bound does work
    distance, alpha, draws = 0.3, 0.001, 2000
    x = torch.full((1, 1, 1), distance)
    radii = []
    for image in range(draws):
        smoothing = Smoothing(0.25, n=200, n0=10, alpha=alpha)
        certificate, votes = smoothing.certify(halfspace, x, image)
        assert votes.shape == (200,)
        radii.append(certificate.radius)
    assert sum(r <= distance for r in radii) / draws >= 0.999
    # and the bound is not idle: the mean radius is most of the distance
    assert 0.6 * distance < sum(radii) / draws < distance


def test_the_radius_approaches_the_distance_with_more_samples() -> None:
    x = torch.full((1, 1, 1), 0.3)
    certificate, _ = Smoothing(0.25, n=20_000).certify(halfspace, x)
    expected = 0.25 * norm.ppf(norm.cdf(0.3 / 0.25) - 3.1 * math.sqrt(0.885 * 0.115 / 20_000))
    assert certificate.radius == pytest.approx(expected, abs=0.01)
    assert certificate.predicted == certificate.top == 1
    assert certificate.samples == 20_100


def test_no_majority_abstains() -> None:
    certificate, _ = Smoothing(0.25, n=1000).certify(halfspace, torch.zeros(1, 1, 1))
    assert (certificate.predicted, certificate.radius) == (ABSTAIN, 0.0)
    assert Smoothing(0.25, n=1000).predict(halfspace, torch.zeros(1, 1, 1)) == ABSTAIN
    assert Smoothing(0.25, n=1000).predict(halfspace, torch.full((1, 1, 1), 0.3)) == 1


def test_noise_is_normalized_and_depends_on_image_and_stream_but_not_on_the_batch() -> None:
    def noise(image: int = 3, stream: int = ESTIMATION, count: int = 730, **options: int) -> Tensor:
        smoothing = Smoothing(0.5, n=1000, std=(0.25, 2.0), **options)
        return torch.cat(list(smoothing.noise(image, stream, count, torch.Size((2, 9, 9)))))

    drawn = noise()
    assert drawn.shape == (730, 2, 9, 9)
    assert drawn.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.5 / 0.25, 0.5 / 2.0], rel=0.02)
    assert torch.equal(drawn, noise(batch=300))
    assert torch.equal(drawn[:80], noise(count=80))
    for other in (noise(image=4), noise(stream=SELECTION), noise(seed=1)):
        assert not torch.equal(drawn, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "sigma is 0"),
        ({"sigma": -0.25}, "sigma is -0.25"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"n": 9}, "needed are at least 10"),
        ({"n0": 0}, "n0 is 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Smoothing(**{"sigma": 0.25, **options})  # type: ignore[arg-type]


def test_the_smallest_n_that_is_accepted_can_certify() -> None:
    assert lower_bound(10, 10, 0.001) > 0.5 > lower_bound(9, 9, 0.001)
