"""Metamorphic relations against hand-worked arrays."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.assess.relations import Relation, Relations, relations_for, spectral
from quantizable.assess.relations.natural import NATURAL, brightness, channel_dropout, contrast, occlusion
from quantizable.assess.relations.spectral import SPECTRAL


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def patch() -> torch.Tensor:
    """One band that counts: [[0, .1, .2], [.3, .4, .5], [.6, .7, .8]], and four like it."""
    return (torch.arange(9.0).view(3, 3) / 10).expand(1, 5, 3, 3).clone()


def test_rotation_by_a_quarter_turn() -> None:
    turned = spectral.rotation(patch(), [90.0], generator())
    expected = torch.tensor([[0.6, 0.3, 0.0], [0.7, 0.4, 0.1], [0.8, 0.5, 0.2]])
    torch.testing.assert_close(turned[0, 0], expected)


def test_zoom_by_one_changes_nothing() -> None:
    torch.testing.assert_close(spectral.zoom(patch(), [1.0], generator()), patch())


@pytest.mark.parametrize(("choice", "value"), [(0.2, 0.0), (0.8, 1.0)])
def test_line_dropout_takes_whole_lines_of_some_bands(choice: float, value: float) -> None:
    changed = spectral.line_dropout(patch() + 0.05, [0.2, 0.2, choice], generator())
    hit = changed == value
    assert hit.sum() == 3  # one line of three pixels, in one band of five
    assert hit.any(2).sum() == 1
    assert torch.equal(changed[~hit], (patch() + 0.05)[~hit])


def test_broken_line_dropout_leaves_part_of_the_line() -> None:
    changed = spectral.broken_line_dropout(patch() + 0.05, [0.2, 0.2, 0.67, 0.0], generator())
    assert (changed == 0).sum() == 2


def test_line_striping_shifts_and_scales_one_line() -> None:
    changed = spectral.line_striping(patch(), [2.0, 3.0], generator())
    line = (changed != patch()).any(2)[0, 0].nonzero().item()
    original = patch()[0, 0, :, line]
    # standardized, 3/100 wide, around the old mean and 2/100 up
    expected = (original - original.mean()) / original.std() * 0.03 + original.mean() + 0.02
    torch.testing.assert_close(changed[0, 0, :, line], expected)


def test_region_dropout_kills_a_rectangle_in_all_bands() -> None:
    changed = spectral.region_dropout(patch() + 0.05, [0.5, 0.0, 2.0, 1.0], generator())
    assert (changed[0, :, 1:, 0] == 0).all()
    assert (changed == 0).sum() == 5 * 2


def test_band_loss_takes_the_mean_of_the_neighbors() -> None:
    bands = torch.tensor([0.0, 0.1, 0.4, 0.6, 0.7]).view(1, 5, 1, 1)
    changed = spectral.band_loss(bands, [0.2], generator()).flatten()
    lost = int((changed != bands.flatten()).nonzero())
    expected = {0: 0.05, 1: 0.2, 2: 0.35, 3: 0.55, 4: 0.65}  # at the ends the band itself is one neighbor
    assert changed[lost].item() == pytest.approx(expected[lost])


def test_salt_and_pepper_hits_the_asked_share() -> None:
    changed = spectral.salt_and_pepper(torch.full((1, 50, 20, 20), 0.5), [0.07], generator())
    assert (changed != 0.5).float().mean().item() == pytest.approx(0.07, abs=0.01)
    assert set(changed.unique().tolist()) == {0.0, 0.5, 1.0}


def test_noise_hits_pixels_in_all_bands_or_bands_at_all_pixels() -> None:
    x = torch.full((1, 30, 10, 10), 0.5)
    pixels = spectral.gaussian_pixels(x, [0.07, 0.1], generator()) != x
    assert torch.equal(pixels.any(1), pixels.all(1))
    bands = spectral.gaussian_bands(x, [0.07, 0.1], generator()) != x
    assert bands.flatten(2).all(2).sum() == bands.flatten(2).any(2).sum() == 2


def test_natural_distortions_by_hand() -> None:
    x = torch.tensor([0.2, 0.6]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    torch.testing.assert_close(brightness(x, [0.1], generator()), x + 0.1)
    torch.testing.assert_close(contrast(x, [0.5], generator()), (x - 0.4) / 2 + 0.4)
    torch.testing.assert_close(channel_dropout(x, [0.9, 0.5], generator())[:, 1], torch.full((1, 4, 4), 0.3))
    covered = occlusion(x, [0.5, 0.0, 0.25], generator())
    assert (covered == 0.5).sum() == 2  # one pixel of four, in both channels


def test_the_vector_switches_relations_on_and_scales_their_parameters() -> None:
    relations = Relations((Relation(brightness, ((-0.2, 0.2),)), Relation(contrast, ((0.6, 1.4),))))
    x = torch.full((1, 3, 2, 2), 0.5)
    assert relations.size == 4
    torch.testing.assert_close(relations.apply(x, torch.tensor([0.9, 0.75, 0.1, 0.0])), x + 0.1)
    assert torch.equal(relations.apply(x, torch.tensor([0.5, 1.0, 0.5, 1.0])), x)
    with pytest.raises(ValueError, match="take 4"):
        relations.apply(x, torch.zeros(3))


def test_the_set_follows_the_kind_of_input() -> None:
    assert relations_for(3) is NATURAL
    assert relations_for(156) is SPECTRAL


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 12]))
def test_every_vector_gives_pixels_and_the_same_again(seed: int, channels: int) -> None:
    relations = relations_for(channels)
    source = torch.Generator().manual_seed(seed)
    x, vector = torch.rand(2, channels, 7, 7, generator=source), torch.rand(relations.size, generator=source)
    changed = relations.apply(x, vector)
    assert changed.shape == x.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(changed, relations.apply(x, vector))
