"""``.qz`` files: the same network back, and one clear error for every damage."""

import json
import struct
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor

import quantizable
from quantizable.deploy import load_qz, save_qz
from quantizable.quantizers import QUANTIZERS
from quantizable.storage.qz import read_qz
from tests.small_net import SmallNet


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_every_mode_comes_back_bit_for_bit(make, images: Tensor, tmp_path: Path, name: str) -> None:
    network = make(name, bits=(2, 3, 4, 8, "w4a8", 32))
    save_qz(network, tmp_path / "model.qz")
    loaded = load_qz(tmp_path / "model.qz", model=SmallNet())
    assert [mode.name for mode in loaded.modes] == ["2", "3", "4", "w4a8", "8"]
    for mode in loaded.modes:
        network.set_bits(mode)
        loaded.set_bits(mode)
        with torch.no_grad():
            assert torch.equal(loaded(images), network(images)), mode


def test_nested_stores_one_set_of_integers(make, tmp_path: Path) -> None:
    for name in ("lsq", "nested"):
        save_qz(make(name, bits=(2, 3, 4, 5, 6, 7, 8)), tmp_path / f"{name}.qz")
    stored = {}
    for name in ("lsq", "nested"):
        with safe_open(tmp_path / f"{name}.qz", "pt") as file:
            codes = [key for key in file.keys() if key.startswith("block") and "codes" in key]  # noqa: SIM118
            stored[name] = {key: file.get_tensor(key).numel() for key in codes}
    assert list(stored["nested"]) == ["block.weight.8.codes"]
    weights = 6 * 6 * 9
    assert stored["lsq"] == {f"block.weight.{b}.codes": -(-weights * b // 8) for b in range(2, 9)}


def test_a_file_of_chosen_modes_holds_no_more(make, images: Tensor, tmp_path: Path) -> None:
    network = make("nested", bits=(2, 4, 8))
    save_qz(network, tmp_path / "two.qz", modes=[2])
    _, tensors = read_qz(tmp_path / "two.qz")
    assert [k for k in tensors if k.startswith("block.weight") and "codes" in k] == ["block.weight.2.codes"]
    assert not any(".norms.4." in key for key in tensors)
    loaded = load_qz(tmp_path / "two.qz", model=SmallNet())
    network.set_bits(2)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
    with pytest.raises(ValueError, match="no mode 4; it has 2"):
        loaded.set_bits(4)


def test_its_float_copy_can_be_trained(make, images: Tensor, tmp_path: Path) -> None:
    save_qz(make(bits=(2, 4)), tmp_path / "model.qz")
    loaded = load_qz(tmp_path / "model.qz", model=SmallNet())
    network = quantizable.quantize(loaded.to_float(4), [2, 4])
    network.calibrate([images])
    network(images).square().sum().backward()
    layers = network.layers().values()
    assert layers
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in layers)
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in loaded.parameters())  # integers are not


def test_the_architecture_is_built_from_its_name(tmp_path: Path) -> None:
    network = quantizable.quantize(timm.create_model("resnet10t", num_classes=7), [2]).eval()
    x = torch.randn(2, 3, 32, 32)
    network.calibrate([x])
    save_qz(network, tmp_path / "model.qz")
    loaded = quantizable.load(tmp_path / "model.qz")
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    floats = sum(p.numel() for p in timm.create_model("resnet10t", num_classes=1000).parameters()) * 4
    assert (tmp_path / "model.qz").stat().st_size < 0.08 * floats


def test_a_larger_network_is_refused(tmp_path: Path) -> None:
    network = quantizable.quantize(timm.create_model("resnet20", num_classes=10), [4]).eval()
    network.calibrate([torch.randn(2, 3, 32, 32)])
    save_qz(network, tmp_path / "model.qz")
    with pytest.raises(ValueError, match=r"does not fit CifarResNet: .*it has no layer1\.3\.conv1"):
        load_qz(tmp_path / "model.qz", model=timm.create_model("resnet32", num_classes=10))


def test_an_unnamed_architecture_is_asked_for(make, tmp_path: Path) -> None:
    save_qz(make(), tmp_path / "model.qz")
    with pytest.raises(ValueError, match=r"load\(path, model=...\)"):
        load_qz(tmp_path / "model.qz")
    with pytest.raises(ValueError, match="does not fit ResNet"):
        load_qz(tmp_path / "model.qz", model=timm.create_model("resnet18"))


def test_a_given_model_stays_as_it_is(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).train()
    network = quantizable.quantize(model, [4, 8])
    network.calibrate([torch.randn(8, 3)])
    save_qz(network.eval(), tmp_path / "own.qz")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):  # given twice
        loaded = load_qz(tmp_path / "own.qz", model)
        x = torch.randn(2, 3)
        assert torch.equal(loaded(x), network(x))
    assert model.training
    assert type(model[0]) is torch.nn.Linear
    assert model[0].weight.requires_grad
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def damaged(path: Path, what: str) -> None:
    """Write a damaged copy of a file over it."""
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if what == "truncated":
        content = content[:-100]
    elif what == "half a header":
        content = content[: length // 2]
    elif what == "a flipped bit":
        content[-1] ^= 1
    elif what in ("newer", "tampered"):
        about = json.loads(header["__metadata__"]["quantizable"])
        about |= {"format_version": 99} if what == "newer" else {"modes": ["3"]}
        header["__metadata__"]["quantizable"] = json.dumps(about)
        new = json.dumps(header).encode()
        content = bytearray(struct.pack("<Q", len(new)) + new + content[8 + length :])
    elif what == "foreign":
        del header["__metadata__"]
        new = json.dumps(header).encode()
        content = bytearray(struct.pack("<Q", len(new)) + new + content[8 + length :])
    elif what == "empty":
        content = bytearray()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "is truncated or no .qz file"),
        ("half a header", "is truncated or no .qz file"),
        ("empty", "is truncated or no .qz file"),
        ("a flipped bit", "was changed or damaged: its checksum does not fit"),
        ("tampered", "was changed or damaged: its checksum does not fit"),
        ("newer", "has format version 99, this library reads up to 1: update it"),
        ("foreign", "is no .qz file of this library"),
    ],
)
def test_a_damaged_file_is_refused(make, tmp_path: Path, what: str, message: str) -> None:
    path = tmp_path / "model.qz"
    save_qz(make(), path)
    damaged(path, what)
    with pytest.raises(ValueError, match=message):
        load_qz(path, model=SmallNet())


def test_bad_requests_leave_nothing_behind(make, tmp_path: Path) -> None:
    network = make(bits=(4, "w32a8"))
    with pytest.raises(ValueError, match="w32a8 keeps float weights"):
        save_qz(network, tmp_path / "model.qz", modes=["w32a8"])
    with pytest.raises(ValueError, match="no mode 5"):
        save_qz(network, tmp_path / "model.qz", modes=[5])
    with pytest.raises(ValueError, match="no mode to store"):
        save_qz(network, tmp_path / "model.qz", modes=[])
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_qz(network, tmp_path / "missing" / "model.qz")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_qz(tmp_path / "model.qz")
    assert not list(tmp_path.iterdir())


def test_a_file_is_as_readable_as_any_other_and_holds_a_mode_once(make, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    save_qz(make(), tmp_path / "model.qz", modes=[4, 2, 4])
    assert (tmp_path / "model.qz").stat().st_mode == (tmp_path / "any").stat().st_mode
    assert [mode.name for mode in load_qz(tmp_path / "model.qz", model=SmallNet()).modes] == ["2", "4"]


def test_the_folders_of_training_do_not_travel(make, tmp_path: Path) -> None:
    network = make()
    network.info["settings"] = {"root": "/home/somebody"}
    save_qz(network, tmp_path / "model.qz")
    assert b"somebody" not in (tmp_path / "model.qz").read_bytes()
    assert load_qz(tmp_path / "model.qz", model=SmallNet()).info["class_names"][0] == "ant"
