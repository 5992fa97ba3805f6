"""Each vectorized step against a literal loop over images and pixels."""

import math

import pytest
import torch
from torch.nn import functional as F

from quantizable.data.augment import (
    Augmentation,
    cutout,
    epoch_draws,
    named_augmentation,
    per_image,
    random_crop,
    random_flip,
)
from quantizable.data.tensors import TensorLoader


@pytest.fixture
def images():
    return torch.randint(1, 256, (40, 3, 16, 16), dtype=torch.uint8)


def test_crop_equals_a_loop(images):
    draws = torch.rand(40, 2)
    cropped = random_crop(images, draws, padding=2)
    offsets = set()
    for image, draw, result in zip(images, draws, cropped, strict=True):
        top, left = math.floor(draw[0] * 5), math.floor(draw[1] * 5)
        offsets.add((top, left))
        assert torch.equal(result, F.pad(image, [2] * 4)[:, top : top + 16, left : left + 16])
    assert len(offsets) > 10  # each image has its own


def test_crop_reaches_both_extremes(images):
    low, high = torch.zeros(40, 2), torch.full((40, 2), 1 - 2**-24)
    assert torch.equal(random_crop(images, low, 2)[..., 2:, 2:], images[..., :-2, :-2])
    assert torch.equal(random_crop(images, high, 2)[..., :-2, :-2], images[..., 2:, 2:])


def test_flip_equals_a_loop(images):
    draws = torch.rand(40)
    for image, draw, result in zip(images, draws, random_flip(images, draws), strict=True):
        expected = torch.stack([image[..., 15 - x] for x in range(16)], -1) if draw < 0.5 else image
        assert torch.equal(result, expected)


def test_cutout_equals_a_loop(images):
    draws, fill = torch.rand(40, 2), torch.tensor([0, 0, 0], dtype=torch.uint8)
    for image, draw, result in zip(images, draws, cutout(images, draws, 6, fill), strict=True):
        y, x = math.floor(draw[0] * 16), math.floor(draw[1] * 16)
        expected = image.clone()
        expected[:, max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = 0
        assert torch.equal(result, expected)


def test_policy_gives_each_image_its_own_draw(images):
    draws = torch.rand(40)
    policy = named_augmentation("randaugment").policy
    together = per_image(images, draws, policy)
    assert torch.equal(together[7:9], per_image(images[7:9], draws[7:9], policy))
    same = per_image(images[:1].expand(40, -1, -1, -1), draws, policy)
    assert len({image.numpy().tobytes() for image in same}) > 10


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "crop",
        "crop_flip",
        "crop_alternating_flip",
        "cutout",
        "autoaugment",
        "randaugment",
        "trivialaugment",
    ],
)
def test_augmentation_keeps_shape_and_type_and_follows_its_draws(name, images):
    augmentation = named_augmentation(name)
    fill = torch.zeros(3, dtype=torch.uint8)
    draws = epoch_draws(40, seed=0, epoch=0)
    result = augmentation(images, draws, fill)
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    assert torch.equal(result, images) == (name == "none")
    half = augmentation(images[::2], draws[::2], fill)  # as another process would
    assert torch.equal(result[::2], half)


def test_alternating_flip_mirrors_every_image_in_every_other_epoch(images):
    augmentation, fill = Augmentation(alternating_flip=True), torch.zeros(3, dtype=torch.uint8)
    epochs = [augmentation(images, epoch_draws(40, seed=3, epoch=e), fill) for e in range(4)]
    mirrored = torch.tensor([not torch.equal(a, b) for a, b in zip(epochs[0], images, strict=True)])
    assert 8 < mirrored.sum() < 32  # about half of 40
    assert torch.equal(epochs[1], epochs[0].flip(-1))
    assert torch.equal(epochs[2], epochs[0])
    assert torch.equal(epochs[3], epochs[1])
    assert not torch.equal(augmentation(images, epoch_draws(40, seed=4, epoch=0), fill), epochs[0])


def test_names_are_checked():
    with pytest.raises(ValueError, match="choose from none, crop, crop_flip"):
        named_augmentation("mixup")
    for name in ("crop_flip", "crop_alternating_flip"):
        with pytest.raises(ValueError, match=f"'{name}' is not available"):
            named_augmentation(name, flip=False)
    assert named_augmentation("crop", flip=False) == Augmentation(crop=True)


@pytest.mark.parametrize("name", ["none", "crop", "crop_flip", "crop_alternating_flip", "cutout"])
def test_batches_are_made_where_the_images_are(name):
    images = torch.zeros(
        12, 3, 16, 16, dtype=torch.uint8, device="meta"
    )  # no operation mixes it with the CPU
    labels = torch.zeros(12, dtype=torch.int64, device="meta")
    augmentation = named_augmentation(name)
    loader = TensorLoader(images, labels, (0.5,) * 3, (0.2,) * 3, 4, True, augmentation=augmentation)
    for batch, target in loader:
        assert batch.is_meta
        assert target.is_meta
        assert batch.shape == (4, 3, 16, 16)
