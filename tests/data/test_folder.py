import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from quantizable.data import Folder, ImageNet
from quantizable.data.layout import check_there
from tests.data.conftest import write_images
from tests.data.test_modules import contract


def folder(root, **options):
    options = {"image_size": 24, "batch_size": 4, "num_workers": 0, "val_size": 4} | options
    return Folder(root, **options)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_contract(image_root, in_chans):
    data = folder(image_root, in_chans=in_chans)
    contract(data)
    assert data.class_names == ("cat", "dog")


def test_val_is_the_test_set_unless_there_is_one(image_root):
    data = folder(image_root)
    parts = {part: {file for file, _ in found} for part, found in data.samples.items()}
    assert {part: len(files) for part, files in parts.items()} == {"train": 16, "val": 4, "test": 6}
    assert all("/train/" in file for file in parts["train"] | parts["val"])
    assert not parts["train"] & parts["val"]
    assert all("/val/" in file for file in parts["test"])

    write_images(image_root, "test", 2, ("cat", "dog"), seed=2)
    sizes = {part: len(found) for part, found in folder(image_root).samples.items()}
    assert sizes == {"train": 20, "val": 6, "test": 4}


def test_workers_and_resuming_change_nothing(image_root):
    whole = list(folder(image_root).train_dataloader())
    assert len(whole) == 4
    loader = folder(image_root, num_workers=2).train_dataloader()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, loader, strict=True))

    loader = folder(image_root).train_dataloader()
    list(itertools.islice(loader, 2))
    resumed = folder(image_root).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], resumed, strict=True))


def test_every_epoch_is_augmented_anew(image_root):
    def bright(loader):  # the sum of each image's pixels, whatever the order
        return torch.cat([x.sum((1, 2, 3)) for x, _ in loader]).sort().values

    loader = folder(image_root).train_dataloader()
    first = bright(loader)
    assert not torch.equal(first, bright(loader))
    loader.set_epoch(0)
    assert torch.equal(first, bright(loader))


@pytest.mark.parametrize("augment", ["none", "crop", "autoaugment", "randaugment", "trivialaugment"])
def test_augmentations(image_root, augment):
    images, _ = next(iter(folder(image_root, augment=augment).train_dataloader()))
    assert images.shape == (4, 3, 24, 24)
    assert images.isfinite().all()


def test_ranks_share_the_images(image_root):
    seen = []
    for rank in (0, 1):
        data = folder(image_root, batch_size=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        seen.append([y.tolist() for _, y in data.train_dataloader()])
        assert data.shard == (rank, 2)
    whole = [sorted(y.tolist()) for _, y in folder(image_root).train_dataloader()]
    assert [sorted(a + b) for a, b in zip(*seen, strict=True)] == whole


def test_corrupt_images_show_before_training(image_root):
    broken = image_root / "train" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (image_root / "val" / "dog" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"2 of 26 images cannot be used: .*3\.png cannot be decoded"):
        folder(image_root).prepare_data()
    unchecked = folder(image_root, verify=False, val_size=0)
    unchecked.prepare_data()
    with pytest.raises(ValueError, match=r"3\.png cannot be decoded"):
        list(unchecked.train_dataloader())


def test_images_of_more_than_8_bits_show_before_training(image_root):
    deep = image_root / "train" / "cat" / "3.png"
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(deep)  # converted, it would be white
    with pytest.raises(
        ValueError, match=r"1 of 26 .*3\.png holds numbers of kind I;16; convert it to 8 bits"
    ):
        folder(image_root).prepare_data()


def test_missing_folders(tmp_path, image_root):
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        folder(tmp_path / "nowhere").prepare_data()
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train\.tar.*image-net\.org"):
        ImageNet(tmp_path / "nowhere").prepare_data()
    with pytest.raises(ValueError, match="holds 2 classes, ImageNet has 1000"):
        ImageNet(image_root).prepare_data()
    shutil.rmtree(image_root / "val")
    with pytest.raises(FileNotFoundError, match="neither val/ nor test/"):
        folder(image_root).prepare_data()


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_test_set_alone_by_the_names_that_a_network_knows(image_root, part):
    """Labels are positions among the names, in whatever order these are; train/ is not looked at."""
    shutil.rmtree(image_root / "train")
    (image_root / "val").rename(image_root / part)
    data = folder(image_root, class_names=["dog", "cat"])
    data.prepare_test_data()
    data.setup("test")
    files = [Path(file) for file, _ in data.test_samples]
    assert [label for _, label in data.test_samples] == [int(file.parent.name == "cat") for file in files]
    assert sum(len(x) for x, _ in data.test_dataloader()) == len(files) > 1
    with pytest.raises(FileNotFoundError, match="The image folder is missing"):
        data.prepare_data()
    with pytest.raises(ValueError, match="and the network do not hold the same classes"):
        folder(image_root, class_names=["dog", "wolf"]).prepare_test_data()
    with pytest.raises(FileNotFoundError, match=r"The image folder is missing: no .*train/CLASS"):
        folder(image_root).prepare_test_data()


def test_imagenet_knows_its_classes_before_it_is_there(tmp_path):
    assert ImageNet(tmp_path).num_classes == 1000


def test_other_classes_are_refused(image_root):
    write_images(image_root, "test", 1, ("cat", "wolf"), seed=2)
    with pytest.raises(ValueError, match=r"do not hold the same classes.*dog, wolf"):
        folder(image_root).prepare_data()


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="choose from none, crop"):
        folder(tmp_path, augment="cutout")
    with pytest.raises(ValueError, match="in_chans=2"):
        folder(tmp_path, in_chans=2)


def test_what_is_there_instead_of_class_folders_is_said(tmp_path, image_root):
    def said(root):
        with pytest.raises(
            FileNotFoundError, match=r"set data\.root to the folder where they lie"
        ) as refused:
            folder(root).prepare_data()
        with pytest.raises(FileNotFoundError) as at_once:
            check_there("Folder", {"root": str(root)})
        assert str(at_once.value) == str(refused.value)  # what is said before torch is imported
        return str(refused.value)

    assert f"there is no folder {tmp_path / 'nowhere'}" in said(tmp_path / "nowhere")
    flat = tmp_path / "flat"
    flat.mkdir()
    assert f"no {flat}/train/CLASS/ folders" in said(flat)
    (flat / "1.png").touch()
    assert f"{flat} holds files and no folders. Put the images of each class in a folder" in said(flat)
    (flat / "train").mkdir()
    (flat / "train" / "1.png").touch()
    assert f"{flat / 'train'} holds files and no folders" in said(flat)
    classes = image_root / "train"  # one folder too deep
    assert f"{classes} has no train/. If cat, dog are classes, move them into {classes}/train/" in said(
        classes
    )


def test_a_look_at_folders_refuses_what_reading_would(tmp_path, image_root):
    check_there("Folder", {"root": image_root})
    check_there("Folder", {})  # the default may be made later
    check_there("CIFAR10", {"root": tmp_path / "nowhere"})  # downloaded there
    with pytest.raises(FileNotFoundError, match="ILSVRC2012_img_train"):
        check_there("ImageNet", {"root": tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError, match=r"no scene .*x\.mat"):
        check_there("Scene", {"file": tmp_path / "x.mat"})
    shutil.rmtree(image_root / "val")
    with pytest.raises(FileNotFoundError, match="neither val/ nor test/"):
        check_there("Folder", {"root": image_root})


@pytest.mark.parametrize(("name", "value"), [("crop_fraction", 0), ("crop_fraction", 2), ("verify", "maybe")])
def test_wrong_settings_of_the_crop(image_root, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} is"):
        folder(image_root, **{name: value})


def test_an_image_too_large_to_decode_is_named(image_root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="cannot be decoded"):
        folder(image_root).prepare_data()
