"""What every data module promises, and what each adds."""

import pytest
import torch
from sklearn.datasets import load_digits

from quantizable.data import CIFAR10, CIFAR100, DATAMODULES, MNIST, SVHN, Digits, Fake


def contract(data):
    data.prepare_data()
    data.setup("fit")
    assert len(data.class_names) == data.num_classes
    assert len(data.mean) == len(data.std) == data.in_chans
    shape = (data.in_chans, data.image_size, data.image_size)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape[1:] == shape
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert labels.min() >= 0
        assert labels.max() < data.num_classes
        assert len(images) == len(labels) <= data.batch_size
    train, again = data.train_dataloader(), data.train_dataloader()
    assert torch.equal(next(iter(train))[0], next(iter(again))[0])
    val = data.val_dataloader()
    assert torch.equal(next(iter(val))[0], next(iter(val))[0])
    assert data.shard == (0, 1)


@pytest.mark.parametrize("data", [Digits(), Fake(), Fake(in_chans=1, image_size=12)])
def test_contract(data):
    contract(data)


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_contract_of_cifar(module, cifar_root):
    contract(module(root=cifar_root, download=False))


@pytest.mark.parametrize(
    ("module", "folder", "files"),
    [
        (CIFAR10, "cifar-10-batches-py", ["test_batch", "batches.meta"]),
        (CIFAR100, "cifar-100-python", ["test", "meta"]),
    ],
)
def test_the_test_set_alone_will_do(module, folder, files, cifar_root, tmp_path):
    (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / folder / file).symlink_to(cifar_root / folder / file)
    data = module(tmp_path, download=False)
    data.prepare_test_data()
    assert len(data.read(train=False)[0]) == 10_000
    with pytest.raises(FileNotFoundError, match=f"{module.__name__} is missing"):
        data.prepare_data()
    (tmp_path / folder / files[0]).unlink()
    (tmp_path / folder / files[0]).write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match="missing or damaged"):
        data.prepare_test_data()


def test_names():
    assert sorted(DATAMODULES) == sorted(
        ["digits", "cifar10", "cifar100", "svhn", "mnist", "imagenet", "folder", "samson", "fake", "text"]
    )


def test_digits_are_scikit_learns():
    data = Digits(image_size=8)
    parts = [data.read(train) for train in (True, False)]
    found = {
        (image.numpy().tobytes(), label.item())
        for images, labels in parts
        for image, label in zip(images, labels, strict=True)
    }
    digits = load_digits()
    ink = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
    expected = {
        (image.numpy().tobytes(), label) for image, label in zip(ink, digits.target.tolist(), strict=True)
    }
    assert found == expected
    assert sum(len(images) for images, _ in parts) == 1797


def test_digits_statistics_and_refusals():
    data = Digits()
    pixels = data.read(train=True)[0].float() / 255
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=1e-3)
    assert pixels.std().item() == pytest.approx(data.std[0], abs=1e-3)
    with pytest.raises(ValueError, match="crop_flip"):
        Digits(augment="crop_flip")
    with pytest.raises(ValueError, match="image_size=4"):
        Digits(image_size=4)


def test_validation_comes_from_the_training_images_and_test_stays_out():
    data = Fake(size=60, val_size=15)
    data.setup()
    pixels = lambda images: {image.numpy().tobytes() for image in images}  # noqa: E731
    everything, test = pixels(data.read(True)[0]), pixels(data.read(False)[0])
    train, val = pixels(data._train[0]), pixels(data._val[0])
    assert len(val) == 15
    assert train | val == everything
    assert not train & val
    assert not test & everything


def test_without_validation():
    data = Fake(val_size=0)
    assert data.val_dataloader() == []
    assert len(data.train_dataloader()) == 8


def test_seed_changes_order_but_not_the_split():
    first, second = Digits(seed=0), Digits(seed=1)
    labels = [torch.cat([y for _, y in d.val_dataloader()]) for d in (first, second)]
    assert torch.equal(*labels)
    orders = [torch.cat([y for _, y in d.train_dataloader()]) for d in (first, second)]
    assert not torch.equal(*orders)


def test_cifar10_is_the_published_set(cifar_root):
    data = CIFAR10(root=cifar_root, batch_size=1000, augment="none")
    labels = torch.cat([y for _, y in data.test_dataloader()])
    assert labels.bincount().tolist() == [1000] * 10
    assert labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    assert len(data.train_dataloader()) == 45
    assert sum(len(y) for _, y in data.val_dataloader()) == 5000


def test_cifar_statistics(cifar_root):
    pixels = CIFAR100(root=cifar_root).read(train=True)[0].float() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(CIFAR100.mean), atol=2e-4, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(CIFAR100.std), atol=2e-4, rtol=0)


def test_svhn_reads_the_published_format(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    pixels = torch.randint(256, (32, 32, 3, 30), dtype=torch.uint8).numpy()
    labels = torch.arange(1, 11).repeat(3)[:, None].numpy()  # the digit 0 is stored as 10
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": labels})
    data = SVHN(root=tmp_path, download=False, val_size=6, batch_size=10)
    contract(data)
    images, found = data.read(train=False)
    assert found.tolist() == [*range(1, 10), 0] * 3
    assert torch.equal(images[4], torch.from_numpy(pixels[..., 4]).permute(2, 0, 1))


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100, SVHN, MNIST])
def test_missing_set_says_what_to_do(module, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"download is off.*Download .*http.*data\.root"):
        module(root=tmp_path, download=False).prepare_data()

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", no_network)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(FileNotFoundError, match=f"no network.*Download .*{tmp_path}"):
        module(root=tmp_path).prepare_data()
    with pytest.raises(FileNotFoundError):
        module(root=tmp_path / "new").prepare_data()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("data", [Digits(split_seed=3, val_size=7), Fake(size=8, in_chans=1), CIFAR10("x")])
def test_settings_make_it_again(data):
    again = type(data)(**data.settings)
    assert again.settings == data.settings
    assert {type(value) for value in data.settings.values()} <= {int, float, str, bool}
    assert again.split_seed == data.split_seed


def test_batch_size_is_checked_at_once():
    with pytest.raises(ValueError, match="batch_size=0"):
        Digits(batch_size=0)
