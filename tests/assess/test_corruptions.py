"""Corruptions: shape, range and repeatability of all; hand-worked values of those that have them."""

import pytest
import torch

from quantizable.assess.corruptions import COMMON, CORRUPTIONS, GREY, corrupt, suite
from quantizable.assess.corruptions.blur import convolve, motion_kernels, zoom
from quantizable.assess.corruptions.digital import elastic_transform
from quantizable.assess.corruptions.weather import cloud


def test_the_two_suites_are_the_published_ones() -> None:
    assert len(COMMON) == 19
    assert len(GREY) == 15
    assert suite(3) is COMMON
    assert suite(1) is GREY
    with pytest.raises(ValueError, match="156 channels"):
        suite(156)


@pytest.mark.parametrize(("name", "channels"), [*((n, 3) for n in COMMON), *((n, 1) for n in GREY)])
def test_every_corruption_gives_pixels_of_the_same_shape_and_repeats(name: str, channels: int) -> None:
    x = torch.rand(2, channels, 12, 12)
    before = x.clone()
    for severity in (1, 5):
        changed = corrupt(x, name, severity, seed=1)
        assert changed.shape == x.shape
        assert changed.dtype == torch.float32
        assert 0 <= changed.min() <= changed.max() <= 1
        assert torch.equal(changed, corrupt(x, name, severity, seed=1))
    assert torch.equal(x, before)  # the clean images are left alone
    assert not torch.equal(changed, x)


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "contrast", "fog"]
)
def test_higher_severity_changes_more(name: str) -> None:
    smooth = torch.linspace(0.2, 0.8, 16).expand(4, 3, 16, 16)
    x = smooth + 0.1 * (torch.rand(4, 3, 16, 16) - 0.5)
    errors = [(corrupt(x, name, s) - x).square().mean().item() for s in (1, 3, 5)]
    assert errors[0] < errors[1] < errors[2]


def test_noise_has_the_published_strength() -> None:
    x = torch.full((8, 3, 32, 32), 0.5)
    assert (corrupt(x, "gaussian_noise", 3) - x).std().item() == pytest.approx(0.08, rel=0.05)
    assert (corrupt(x, "shot_noise", 1) - x).std().item() == pytest.approx((0.5 / 500) ** 0.5, rel=0.05)
    hit = ((corrupt(x, "impulse_noise", 5) - x).abs() > 0.4).float().mean().item()
    assert hit == pytest.approx(0.07, rel=0.1)


def test_contrast_brightness_and_pixelate_by_hand() -> None:
    x = torch.tensor([0.2, 0.6]).repeat(8)[:, None].expand(16, 16)[None, None].contiguous()
    expected = 0.4 + 0.3 * (x - 0.4)  # severity 4 keeps 0.3 of the difference from the mean of 0.4
    torch.testing.assert_close(corrupt(x, "contrast", 4), expected, atol=1 / 500, rtol=0)
    torch.testing.assert_close(corrupt(x, "brightness", 2), x + 0.1, atol=1 / 500, rtol=0)
    flat = torch.full((1, 3, 16, 16), 51 / 255)
    for name in ("pixelate", "gaussian_blur", "zoom_blur", "glass_blur", "motion_blur", "defocus_blur"):
        torch.testing.assert_close(corrupt(flat, name, 5), flat, atol=1e-6, rtol=0)


def test_brightness_of_colors_adds_to_the_value_of_hsv() -> None:
    red = torch.tensor([0.4, 0.2, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    # value 0.4 to 0.6 at severity 4, hue and saturation kept: all channels times 1.5
    torch.testing.assert_close(corrupt(red, "brightness", 4), 1.5 * red, atol=1 / 500, rtol=0)


def test_motion_blur_along_the_horizontal_moves_nothing_across() -> None:
    kernel = motion_kernels(torch.tensor([0.0]), 3, 2.0)
    assert kernel.sum().item() == pytest.approx(1)
    assert kernel[0, 6].sum().item() == pytest.approx(1)  # all in the middle row
    rows = torch.rand(1, 1, 8, 1).expand(1, 1, 8, 8)
    torch.testing.assert_close(convolve(rows, kernel), rows)


def test_zoom_by_two_is_the_middle_quarter() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 2:6, 2:6] = 1
    torch.testing.assert_close(zoom(x, 2.0), torch.ones(1, 1, 8, 8))


def test_clouds_fill_the_unit_interval() -> None:
    values = cloud((3, 16, 16), 2.0, torch.Generator().manual_seed(0))
    assert values.amin((1, 2, 3)).tolist() == [0] * 3
    assert values.amax((1, 2, 3)).tolist() == [1] * 3


def test_elastic_transform_keeps_a_flat_image() -> None:
    flat = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(elastic_transform(flat, 5, torch.Generator()), flat)


def test_a_stripe_inverts_the_middle_columns() -> None:
    changed = corrupt(torch.zeros(1, 1, 20, 20), "stripe", 2)
    assert changed[0, 0].sum(0).tolist() == [20.0 if 8 <= column < 12 else 0.0 for column in range(20)]


def test_bad_names_and_severities_are_refused() -> None:
    x = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="'hail' is unknown"):
        corrupt(x, "hail", 1)
    with pytest.raises(ValueError, match="these have 1 channels"):
        corrupt(x, "saturate", 1)
    with pytest.raises(ValueError, match="severity 6"):
        corrupt(x, next(iter(CORRUPTIONS)), 6)
