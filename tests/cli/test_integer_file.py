"""assess, search and verify take a ``.qz`` file as they take its checkpoint, and give the same numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import quantizable
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy import save_qz
from quantizable.storage.digests import fingerprint
from quantizable.verify.command import load_graphs

DATA = ["data=fake", "data.size=48", "data.image_size=12", "data.num_classes=4"]


@pytest.fixture(scope="module")
def files(calibrated: Callable[..., Path]) -> tuple[Path, Path]:
    """A checkpoint and the ``.qz`` of the same network."""
    data = Fake(size=48, image_size=12, num_classes=4, batch_size=16)
    path = calibrated("patch_cnn", [2, 4, 8], data, cifar_stem=False, width=4)
    save_qz(quantizable.load(path), path.with_suffix(".qz"))
    return path, path.with_suffix(".qz")


def test_assess_finds_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for file in files:
        output = tmp_path / file.suffix
        words = [*DATA, "--images", "20", "--corruptions", "none", "--output", str(output)]
        assert main(["assess", str(file), *words]) == 0
        found.append(json.loads((output / "assessment.json").read_text()))
    one, other = found
    assert one["shifts"][0]["accuracy"] == other["shifts"][0]["accuracy"]
    assert one["bops_per_image"] == other["bops_per_image"]


def test_repair_of_integers_is_refused_at_once(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["assess", str(files[1]), *DATA, "--repair", "1", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "--repair trains float weights, and" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_search_and_certify(files: tuple[Path, Path], tmp_path: Path) -> None:
    words = [*DATA, "--images", "8", "--output", str(tmp_path)]
    more = ["--methods", "uniform,integer", "--budget", "4bit", "--evaluations", "4", "--norm-batches", "1"]
    assert main(["search", "bits", str(files[1]), *words, *more]) == 0
    found = tmp_path / "integer-4bit.yaml"
    assert main(["evaluate", str(files[1]), *DATA, "--bits", f"{found},4"]) == 0
    assert main(["search", "sensitivity", str(files[1]), *words]) == 0
    assert main(["search", "certify", str(files[1]), *words, "--n", "20", "--n0", "5", "--bits", "4"]) == 0
    rows = json.loads((tmp_path / "certified.json").read_text())["bits"]
    assert list(rows) == ["4"]


def test_verify_proves_of_both_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    shape = (3, 12, 12)
    x = torch.rand(3, *shape, dtype=torch.float64)
    for one, other in zip(*(load_graphs(file, ["8", "4"], shape) for file in files), strict=True):
        torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-5)
    np.save(tmp_path / "x.npy", x[:1].numpy())
    words = ["--inputs", str(tmp_path / "x.npy"), "--radius", "0.001", "--eps", "1000", "--bits", "8,4"]
    assert main(["verify", str(files[1]), *words, "--bounds-only"]) == 0


def test_the_fingerprint_covers_the_integers(files: tuple[Path, Path]) -> None:
    network = quantizable.load(files[1])
    before = fingerprint(network)
    for name, buffer in network.named_buffers():
        if name.endswith("stored_codes"):
            buffer.flatten()[0] ^= 1
            break
    assert fingerprint(network) != before
