"""A trained network back from its file, and files that are refused without running anything in them."""

import pickle
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import quantizable
from quantizable import QuantizableClassifier, quantize
from quantizable.storage.checkpoint import read_checkpoint
from quantizable.training.description import check_same_network
from tests.tiny import TinyCNN, batches, loader, trainer
from tests.training.test_module import OwnData, Regressor


def fitted(model: Any = "tiny_cnn", classes: int = 10) -> QuantizableClassifier:
    module = QuantizableClassifier(model, classes, [2, "w4a8", 32], quantize_options={"first_last": "mode"})
    run = trainer(max_epochs=1)
    run.fit(module, loader(2))
    return module.eval()


@pytest.fixture(scope="module")
def trained() -> QuantizableClassifier:
    torch.manual_seed(0)
    return fitted()


@pytest.fixture
def path(trained: QuantizableClassifier, tmp_path: Path) -> Path:
    trained.trainer.save_checkpoint(tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of what the checkpoint says of itself."""
    contents = torch.load(path, weights_only=True)
    contents["quantizable"] |= changes
    torch.save(contents, path)


def test_every_mode_gives_the_same_logits_after_loading(trained: QuantizableClassifier, path: Path) -> None:
    network = quantizable.load(path)
    assert not network.training
    assert network.modes == trained.modes
    images = batches(1)[0][0]
    for mode in (2, "w4a8", 32):
        network.set_bits(mode)
        trained.set_bits(mode)
        assert torch.equal(network(images), trained(images))
    assert network.info["num_classes"] == 10


def test_a_mode_added_after_training_is_kept_too(tmp_path: Path) -> None:
    module = fitted()
    module.network.add_mode("w2a8", like=2)
    module.set_bits("w2a8")
    module.trainer.save_checkpoint(tmp_path / "more.ckpt")
    network = quantizable.load(tmp_path / "more.ckpt")
    network.set_bits("w2a8")
    images = batches(1)[0][0]
    assert torch.equal(network(images), module(images))


def test_a_network_of_the_users_own_is_passed_again(tmp_path: Path) -> None:
    module = fitted(TinyCNN())
    module.trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"module of your own; pass it: load\(path, model=...\)"):
        quantizable.load(tmp_path / "own.ckpt")
    network = quantizable.load(tmp_path / "own.ckpt", model=TinyCNN())
    images = batches(1)[0][0]
    network.set_bits(2)
    module.set_bits(2)
    assert torch.equal(network(images), module(images))


def test_another_task_loads_into_its_float_network(tmp_path: Path) -> None:
    module = Regressor(quantize(TinyCNN(num_classes=1), [2, 32]))
    run = trainer(max_epochs=1)
    run.fit(module, datamodule=OwnData())
    run.save_checkpoint(tmp_path / "r.ckpt")
    with pytest.raises(ValueError, match="module of your own; pass it"):
        quantizable.load(tmp_path / "r.ckpt")
    network = quantizable.load(tmp_path / "r.ckpt", TinyCNN(num_classes=1))
    images = batches(1)[0][0]
    module.eval()
    for mode in (2, 32):
        with network.at_bits(mode), module.at_bits(mode):
            assert torch.equal(network(images), module(images))


def test_lightnings_way_to_load_gives_the_module(path: Path) -> None:
    module = QuantizableClassifier.load_from_checkpoint(path)
    assert [mode.name for mode in module.modes] == ["2", "w4a8", "32"]
    assert torch.equal(module.network.model.fc.weight, quantizable.load(path).model.fc.weight)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"format": 1}, "damaged: it does not say model, num_classes, "),
        ({"format": "x"}, "damaged: it does not say format, "),
        ({"quantize": {}}, "damaged: it does not say bits, quantizer"),
        ({"model_options": {"banana": 1}, "model": "resnet20"}, "does not say how to build its network"),
    ],
)
def test_damaged_entries(path: Path, about: dict[str, Any], message: str) -> None:
    contents = torch.load(path, weights_only=True)
    contents["quantizable"] = about if "format" in about else contents["quantizable"] | about
    torch.save(contents, path)
    with pytest.raises(ValueError, match=message):
        quantizable.load(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        quantizable.load(tmp_path / "best.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        quantizable.load(path)


def with_a_flipped_bit(path: Path) -> None:
    """Change one bit in the middle of the largest tensor of a file of ``torch.save``."""
    with zipfile.ZipFile(path) as archive:
        largest = max((i for i in archive.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
        bits = bytearray(path.read_bytes())
        tensor = archive.read(largest)
    bits[bits.index(tensor) + len(tensor) // 2] ^= 0x40
    path.write_bytes(bits)


def test_a_flipped_bit_of_a_tensor_is_refused(path: Path) -> None:
    with_a_flipped_bit(path)
    torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(ValueError, match="was changed or damaged: a checksum in it does not fit"):
        quantizable.load(path)


def test_no_changed_byte_of_an_entrys_frame_is_a_fault_of_ours(path: Path) -> None:
    """Flags, methods, sizes and checksums of an entry: a file loads as it was, or is refused in one line."""
    whole = path.read_bytes()
    expected = read_checkpoint(path)["state_dict"]
    first, directory = 0, whole.rindex(b"PK\x05\x06") - 46 - len("best/version")
    for at in [*range(first, 30), *range(directory, directory + 46)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            found = read_checkpoint(path)["state_dict"]
        except ValueError:
            continue
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_noise_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"banana" * 100)
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        quantizable.load(tmp_path / "x.ckpt")


class Malicious:
    """Would write a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "owned")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_never_run(path: Path, tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "owned"
    contents = torch.load(path, weights_only=True)
    contents["extra"] = Malicious(target)
    if zipped:
        torch.save(contents, path)
        assert zipfile.is_zipfile(path)
    else:
        path.write_bytes(pickle.dumps(contents["extra"]))
    with pytest.raises(
        ValueError, match="holds code" if zipped else "a pickle, the format of old files, which can hold code"
    ):
        quantizable.load(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists()  # it would have run


def test_another_architecture(path: Path) -> None:
    rewrite(path, model="resnet20")
    with pytest.raises(ValueError, match="does not fit the network") as error:
        quantizable.load(path)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_another_class_count(path: Path) -> None:
    rewrite(path, num_classes=7)
    with pytest.raises(
        ValueError, match=r"trained on 7 classes, does not fit the network: size mismatch for model.fc"
    ):
        quantizable.load(path)


def test_a_newer_format(path: Path) -> None:
    rewrite(path, format=99)
    with pytest.raises(ValueError, match="format 99, newer than 1: update quantizable"):
        quantizable.load(path)


def test_other_files_of_torch(tmp_path: Path) -> None:
    torch.save(TinyCNN().state_dict(), tmp_path / "float.pth")
    torch.save({"quantizable": 3, "state_dict": {}}, tmp_path / "odd.ckpt")
    for name in ("float.pth", "odd.ckpt"):
        with pytest.raises(ValueError, match="no checkpoint of a quantizable network"):
            read_checkpoint(tmp_path / name)


def test_a_mode_the_network_lacks(path: Path) -> None:
    with pytest.raises(ValueError, match="no mode 4; it has 2, w4a8, 32"):
        quantizable.load(path).set_bits(4)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (("tiny_cnn", 10, [2, 8, 32]), "modes="),
        (("tiny_cnn", 7, [2, "w4a8", 32]), "num_classes=10"),
        (("resnet20", 10, [2, "w4a8", 32]), "model=tiny_cnn"),
        (("tiny_cnn", 10, [2, "w4a8", 32]), "quantize="),
    ],
)
def test_only_the_same_network_resumes(path: Path, other: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be resumed: it was trained with {what}"):
        check_same_network(QuantizableClassifier(*other).description(), path)


@pytest.mark.parametrize("bits", [None, 8])
def test_an_option_that_is_younger_than_the_checkpoint_was_off(path: Path, bits: int | None) -> None:
    given = QuantizableClassifier("tiny_cnn", 10, [2, "w4a8", 32]).description()
    rewrite(path, quantize={key: value for key, value in given["quantize"].items() if key != "residual"})
    given["quantize"]["residual"] = bits
    with nullcontext() if bits is None else pytest.raises(ValueError, match="cannot be resumed"):
        check_same_network(given, path)


def test_a_file_of_integers_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.qz").write_bytes(b"integers")
    with pytest.raises(ValueError, match=r"model\.qz holds integers, which cannot be trained"):
        quantizable.storage.checkpoint.load_checkpoint(tmp_path / "model.qz")
