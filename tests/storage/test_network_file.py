"""What a network's file says of itself without torch, against what loading it says."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import quantizable
from quantizable.data import Fake
from quantizable.deploy import save_qz
from quantizable.storage.network_file import check_checkpoint, check_file, read_about


@pytest.fixture(scope="module")
def checkpoint(calibrated: Callable[..., Path]) -> Path:
    data = Fake(size=16, image_size=8, batch_size=8)
    return calibrated("patch_cnn", [2, "w4a8", 32], data, width=4)


def test_modes_and_data_are_those_of_the_loaded_network(checkpoint: Path, tmp_path: Path) -> None:
    network = quantizable.load(checkpoint)
    save_qz(network, tmp_path / "model.qz", [2, "w4a8"])
    for path in (checkpoint, tmp_path / "model.qz"):
        about = read_about(path)
        assert about is not None
        assert about["modes"] == [mode.name for mode in quantizable.load(path).modes]
    about = read_about(checkpoint)
    assert about is not None
    assert about["data"]["data"] == network.info["data"] == "fake"


class Harmful:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("harmed",)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "quantizable": {"modes": ["2"], "info": {}, "quantize": {"quantizer": "lsq"}},
        "state_dict": {"x": torch.ones(2)},
        "bad": Harmful(),
    }
    torch.save(contents, "bad.ckpt")
    about = read_about(Path("bad.ckpt"))
    assert about is not None
    assert (about["modes"], about["quantizer"]) == (["2"], "lsq")
    assert not Path("harmed").exists()
    with pytest.raises(FileExistsError):  # what a plain unpickler does, twice
        [torch.load("bad.ckpt", weights_only=False) for _ in range(2)]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 1000, -1])
@pytest.mark.parametrize("suffix", [".ckpt", ".qz"])
def test_damaged_bytes_say_nothing(suffix: str, length: int, checkpoint: Path, tmp_path: Path) -> None:
    if suffix == ".qz":
        save_qz(quantizable.load(checkpoint), tmp_path / "whole.qz", [2])
        whole = (tmp_path / "whole.qz").read_bytes()[:2000]  # its header is longer
    else:
        whole = checkpoint.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[:length])
    assert read_about(path) is None
    path.write_bytes(b"\xff" * 100)  # a header of more bytes than there are
    assert read_about(path) is None


def test_files_that_are_none(checkpoint: Path, tmp_path: Path) -> None:
    check_checkpoint(checkpoint)
    check_file(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"is a folder; did you mean .*best\.ckpt\?"):
        check_file(checkpoint.parent)
    with pytest.raises(FileNotFoundError, match="is a folder; give a file in it"):
        check_file(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint .*/besst\.ckpt; did you mean .*/best\.ckpt\?"
    ):
        check_checkpoint(checkpoint.with_name("besst.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"no file .*/model\.qz$"):
        check_file(tmp_path / "model.qz")
    (tmp_path / "model.qz").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds integers"):
        check_checkpoint(tmp_path / "model.qz")
    (tmp_path / "notes.ckpt").write_text("text")
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        check_checkpoint(tmp_path / "notes.ckpt")
    (tmp_path / "old.th").write_bytes(pickle.dumps({}))  # what reads it says why it is refused
    check_checkpoint(tmp_path / "old.th")
