"""Assignments as files: they come back as they were, and only to their own network."""

from pathlib import Path

import pytest
import torch
import yaml

from quantizable.storage.assignment import (
    SavedAssignment,
    fingerprint,
    noisy_inputs,
    read_assignment,
    write_assignment,
)
from tests.search.conftest import make_network

BITS = {"0": 8, "3": "w2a8", "6": 4, "9": "w8a2", "14": 8}


def test_a_file_sets_the_bits_it_was_written_from(tmp_path: Path) -> None:
    network, x = make_network(), torch.randn(32, 3, 8, 8)
    saved = SavedAssignment(BITS, norm_batches=2, about={"method": "greedy", "accuracy": 0.5})
    saved.apply(network, [x, x])
    expected = network(x)
    write_assignment(tmp_path / "a.yaml", network, saved)
    again = make_network()
    read = read_assignment(tmp_path / "a.yaml", again)
    assert read == saved
    read.apply(again, [x, x])
    assert torch.equal(again(x), expected)
    assert again.layers()["3"].bits.name == "w2a8"


def test_the_fingerprint_follows_the_weights_and_nothing_else() -> None:
    network = make_network()
    before = fingerprint(network)
    network.add_mode("w4a8", like=4)
    network.set_bits(2)
    network.reestimate_norms([torch.randn(8, 3, 8, 8)], [4])
    assert fingerprint(network) == before
    assert fingerprint(make_network(seed=1)) != before
    with torch.no_grad():
        network.layers()["3"].weight[0, 0, 0, 0] += 0.1
    assert fingerprint(network) != before


@pytest.mark.parametrize("part", ["weight_quantizer", "norms.4.weight"])
def test_the_fingerprint_covers_step_sizes_and_norms_of_each_mode(part: str) -> None:
    network = make_network()
    before = fingerprint(network)
    with torch.no_grad():
        next(p for name, p in network.named_parameters() if part in name).mul_(3)
    assert fingerprint(network) != before


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    write_assignment(tmp_path / "a.yaml", make_network(), SavedAssignment(BITS))
    with pytest.raises(ValueError, match="made for another network"):
        read_assignment(tmp_path / "a.yaml", make_network(seed=1))


def test_files_that_are_no_assignment_are_refused(tmp_path: Path) -> None:
    network, path = make_network(), tmp_path / "a.yaml"
    with pytest.raises(FileNotFoundError, match="no assignment file"):
        read_assignment(path, network)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="no YAML"):
        read_assignment(path, network)
    for contents in ("just words", "bits: 4"):
        path.write_text(contents)
        with pytest.raises(ValueError, match="no assignment of bits"):
            read_assignment(path, network)
    path.write_text("[" * 5000)
    with pytest.raises(ValueError, match="no YAML"):
        read_assignment(path, network)
    for batches in ([1], None, float("inf"), "abc", -5, 1.9, True):
        same = {"format": 2, "network": fingerprint(network), "norm_batches": batches, "bits": {"0": 8}}
        path.write_text(yaml.safe_dump(same))
        with pytest.raises(ValueError, match=r"a\.yaml: norm_batches is .*; it is an integer of at least 0"):
            read_assignment(path, network)
    path.write_text(yaml.safe_dump({"format": 99, "bits": {"0": 8}}))
    with pytest.raises(ValueError, match="format 99"):
        read_assignment(path, network)


def test_norms_of_a_network_that_will_see_noise_are_fitted_to_noise(tmp_path: Path) -> None:
    x, std = torch.randn(64, 3, 8, 8), (0.5, 0.25, 1.0)
    network = make_network()
    saved = SavedAssignment(BITS, norm_batches=1, norm_noise=0.5)
    write_assignment(tmp_path / "a.yaml", network, saved)
    assert read_assignment(tmp_path / "a.yaml", network) == saved
    (noisy,) = noisy_inputs([(x, None)], 0.5, std)
    assert (noisy - x).std((0, 2, 3)).tolist() == pytest.approx([1.0, 2.0, 0.5], rel=0.05)  # sigma / std
    assert torch.equal(next(noisy_inputs([x], 0.5, std)), noisy)
    by_hand = make_network()
    SavedAssignment(BITS, norm_batches=1).apply(by_hand, [noisy])
    saved.apply(network, [x], std)
    assert torch.equal(network(x), by_hand(x))
    text = (tmp_path / "a.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text.replace("norm_noise: 0.5", "norm_noise: .nan"))
    with pytest.raises(ValueError, match="norm_noise is nan"):
        read_assignment(tmp_path / "a.yaml", make_network())


def test_a_width_that_the_network_was_not_built_for_is_refused() -> None:
    with pytest.raises(ValueError, match="mode 3 cannot be added"):
        SavedAssignment({**BITS, "3": 3}).apply(make_network())
