"""An assignment file works wherever a mode does: in Python and in every command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import quantizable
from quantizable.bits import BitMode
from quantizable.cli import main
from quantizable.data import Fake
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.storage.assignment import SavedAssignment, read_assignment, write_assignment
from quantizable.storage.network_data import trained_data
from quantizable.storage.selection import choose

DATA = ["data=fake", "data.size=48", "data.image_size=8", "data.num_classes=4", "data.batch_size=16"]
# the highest mode and 8 bits of the reference's norms are in the mix, so that a shared norm would show
BITS = {
    "bands.0.0": 8, "bands.1.0": "w2a8", "space.0.0": 8, "space.1.0": "w8a2", "classifier": 8, "bands.0.1": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(calibrated: Callable[..., Path]) -> Path:
    """Of a network without a float mode."""
    return calibrated("patch_cnn", [2, 8], fake(), width=4)


def fake() -> Fake:
    return Fake(size=48, image_size=8, num_classes=4, batch_size=16)


@pytest.fixture
def mixed(checkpoint: Path, tmp_path: Path) -> str:
    """An assignment whose norms are to be fitted on two batches."""
    write_assignment(tmp_path / "mixed.yaml", quantizable.load(checkpoint), SavedAssignment(BITS, 2))
    return str(tmp_path / "mixed.yaml")


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    path = tmp_path / "foreign.yaml"
    path.write_text("format: 2\nnetwork: 0123456789abcdef\nnorm_batches: 0\nbits: {classifier: 8}\n")
    return str(path)


def fitted(checkpoint: Path, mixed: str) -> quantizable.QuantizableNetwork:
    """The network in the assignment, by hand."""
    network = quantizable.load(checkpoint)
    read_assignment(mixed, network).apply(network, fake().train_dataloader())
    return network


def test_set_bits_takes_the_file(checkpoint: Path, mixed: str) -> None:
    network = fitted(checkpoint, mixed)
    assert network.layers()["space.1.0"].bits == BitMode(8, 2)
    network.set_bits(2)
    network.set_bits(read_assignment(mixed, network).bits)  # its modes are there now
    assert network.layers()["bands.1.0"].bits == BitMode(2, 8)


def test_choose_gives_modes_and_fitted_assignments_and_leaves_the_network_alone(
    checkpoint: Path, mixed: str
) -> None:
    network, x = quantizable.load(checkpoint), torch.randn(8, 3, 8, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first, low, top = choose(f"8,{mixed},2", network, lambda: trained_data(network))
    assert [one.name for one in (first, low, top)] == ["mixed", "2", "8"]
    assert (low.bits, top.bits) == (BitMode(2, 2), BitMode(8, 8))
    with torch.no_grad(), first.network.at_bits(first.bits):
        assert torch.equal(first.network(x), fitted(checkpoint, mixed)(x))
    assert low.network is top.network is network
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.modes == [BitMode(2, 2), BitMode(8, 8)]


def test_data_is_asked_for_only_to_fit_norms(checkpoint: Path, tmp_path: Path) -> None:
    network = quantizable.load(checkpoint)
    write_assignment(tmp_path / "plain.yaml", network, SavedAssignment(BITS))

    def none_here() -> Fake:
        raise AssertionError

    chosen = choose(f"{tmp_path / 'plain.yaml'},8", network, none_here)
    assert [one.name for one in chosen] == ["plain", "8"]
    assert [one.name for one in choose(None, network, none_here, [BitMode(2, 2)])] == ["2"]


def test_files_that_could_not_be_told_apart_are_refused(checkpoint: Path, mixed: str) -> None:
    network, same = quantizable.load(checkpoint), Path(mixed).rename(Path(mixed).with_name("8.yaml"))
    for text in (f"{same},{same}", f"{same},8"):
        with pytest.raises(ValueError, match="names 8 twice"):
            choose(text, network, fake)


def test_evaluate_compares_with_the_untouched_highest_mode(
    checkpoint: Path, mixed: str, tmp_path: Path
) -> None:
    words = ["evaluate", str(checkpoint), *DATA, "--bits", f"2,8,{mixed}", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["modes"]
    assert list(rows) == ["mixed", "2", "8"]
    network, own = quantizable.load(checkpoint), fitted(checkpoint, mixed)
    images, labels = (torch.cat(part) for part in zip(*fake().test_dataloader(), strict=True))
    with torch.no_grad():
        top, low = network(images), own(images)
    assert rows["8"]["loss"] == pytest.approx(F.cross_entropy(top, labels).item(), rel=1e-5)
    assert rows["mixed"]["loss"] == pytest.approx(F.cross_entropy(low, labels).item(), rel=1e-5)
    assert rows["mixed"]["disagreement"] == pytest.approx(
        (top.argmax(1) != low.argmax(1)).double().mean().item()
    )


def test_export_writes_the_mixed_graph(checkpoint: Path, mixed: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = ["export", str(checkpoint), *DATA, "--bits", mixed, "--format", "onnx", "--output", str(tmp_path)]
    assert main(words) == 0
    run = compile_onnxruntime((tmp_path / "best_mixed.onnx").read_bytes(), 1, None)
    x = next(iter(fake().test_dataloader()))[0]
    with torch.no_grad():
        expected = fitted(checkpoint, mixed)(x).numpy()
    np.testing.assert_allclose(run(x.numpy()), expected, atol=0.02)


def test_export_says_which_formats_hold_an_assignment(
    checkpoint: Path, mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["export", str(checkpoint), "--bits", mixed, "--output", str(output)]) == 2
    assert "choose --format onnx or openvino" in capsys.readouterr().err
    assert not output.exists()


def test_assess_compares_an_assignment_with_modes(checkpoint: Path, mixed: str, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("cma")
    output = tmp_path / "report"
    words = [
        "assess",
        str(checkpoint),
        *DATA,
        "--bits",
        f"8,{mixed}",
        "--corruptions",
        "none",
        "--repair",
        "1",
    ]
    assert main([*words, "--output", str(output)]) == 0
    found = json.loads((output / "assessment.json").read_text())
    assert found["shifts"][0]["names"] == ["mixed", "8"]
    assert "only modes" in found["skipped"]["repair of mixed"]


def test_verify_bounds_an_assignment_against_a_mode_and_checks_its_certificate(
    checkpoint: Path, mixed: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", torch.randn(1, 3, 8, 8, generator=torch.manual_seed(0)).numpy())
    words = ["verify", str(checkpoint), *DATA, "--bits", f"8,{mixed}", "--inputs", str(tmp_path / "x.npy")]
    asked = ["--radius", "0", "--eps", "100", "--bounds-only", "--output", str(tmp_path / "out")]
    assert main([*words, *asked]) == 0
    certificate = tmp_path / "out" / "certificate-0.json"
    low, high = json.loads(certificate.read_text())["bound"]
    x = torch.from_numpy(np.load(tmp_path / "x.npy"))
    with torch.no_grad():
        reference, own = quantizable.load(checkpoint)(x)[0], fitted(checkpoint, mixed)(x)[0]
    difference = (own - reference)[reference.argmax()].item()
    assert min(abs(difference - low), abs(difference + high)) < 1e-3  # a point: the bound is the value
    assert main(["verify", str(checkpoint), *DATA, "--check", str(certificate)]) == 0


def test_certify_takes_an_assignment_beside_modes(checkpoint: Path, mixed: str, tmp_path: Path) -> None:
    words = ["search", "certify", str(checkpoint), *DATA, "--bits", f"{mixed},2", "--images", "2"]
    assert main([*words, "--n", "60", "--n0", "10", "--sigma", "0.1", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "certified.json").read_text())["bits"]
    assert list(rows) == ["mixed", "2"]


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "CHECKPOINT", "--bits", "FILE"],
        ["export", "CHECKPOINT", "--format", "onnx", "--bits", "FILE"],
        ["assess", "CHECKPOINT", "--bits", "8,FILE"],
        ["search", "certify", "CHECKPOINT", "--bits", "FILE"],
        ["verify", "CHECKPOINT", "--inputs", "x.npy", "--radius", "1", "--eps", "1", "--bits", "8,FILE"],
    ],
)
def test_an_assignment_of_another_network_is_one_clear_error(
    words: list[str],
    checkpoint: Path,
    foreign: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 3, 8, 8)))
    given = [word.replace("CHECKPOINT", str(checkpoint)).replace("FILE", foreign) for word in words]
    if words[0] == "search":
        given += ["--output", str(tmp_path)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert "made for another network" in error
    assert len(error.strip().splitlines()) == 1
