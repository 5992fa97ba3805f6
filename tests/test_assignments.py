"""Bits per layer held under a name: one more mode of the network, with norms of its own."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import quantizable
from quantizable.bits import BitMode
from quantizable.data.base import DataModule
from quantizable.deploy.session import Session
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.network import QuantizableNetwork
from quantizable.storage.assignment import SavedAssignment
from quantizable.storage.digests import digest_network
from quantizable.storage.qz import save_qz
from quantizable.storage.save import save_checkpoint
from quantizable.storage.selection import choose

FOUND = {"0": 8, "3": "w2a4", "6": 4, "10": 8}
X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def float_model() -> nn.Module:
    parts = [
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    ]
    parts += [nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*parts)


def make(**options: object) -> QuantizableNetwork:
    torch.manual_seed(0)
    network = quantizable.quantize(float_model(), [2, 4, 32], **options)  # type: ignore[arg-type]
    network.calibrate([X])
    network.info |= {"in_chans": 3, "image_size": 8, "num_classes": 4}
    return network.eval()


@pytest.fixture
def network() -> QuantizableNetwork:
    """Holds ``found``, whose norms differ from those of all modes."""
    network = make()
    network.add_assignment("found", FOUND)
    for norm in network.norms().values():
        norm.norms["found"].weight.data.mul_(1.5)
    return network


def test_it_runs_each_layer_at_its_own_widths_with_its_own_norms(network: QuantizableNetwork) -> None:
    network.set_bits("found")
    assert network.bits == "found"
    assert [layer.bits.name for layer in network.layers().values()] == ["8", "w2a4", "4", "8"]
    found = network(X)
    # by hand: the same mapping on a network without names, whose norms are the nearest modes', made 1.5 times
    other = make()
    other.set_bits({"0": 8, "10": 8, "3": 2, "6": 4, "1": 32, "4": 2, "7": 4})
    other.layers()["3"].set_bits(BitMode(2, 4))
    for norm in other.norms().values():
        norm.active.weight.data.mul_(1.5)
    torch.testing.assert_close(found, other(X), rtol=0, atol=0)


def test_modes_stay_as_they_are_beside_it(network: QuantizableNetwork) -> None:
    plain = make()
    for mode in (2, 4, 32):
        with network.at_bits("found"), network.at_bits(mode), plain.at_bits(mode):
            torch.testing.assert_close(network(X), plain(X), rtol=0, atol=0)
    assert network.modes == plain.modes


def test_its_step_sizes_are_those_of_the_widths(network: QuantizableNetwork) -> None:
    network.train().set_bits("found")
    network(X).square().sum().backward()
    levels = network.layers()["3"].weight_quantizer.levels
    assert levels["2"].scale.grad is not None
    assert levels["4"].scale.grad is None
    grads = {name: norm.weight.grad is not None for name, norm in network.norms()["4"].norms.items()}
    assert grads == {"2": False, "4": False, "32": False, "found": True}


def test_norms_are_fitted_for_it_alone(network: QuantizableNetwork) -> None:
    before = copy.deepcopy(network.state_dict())
    network.reestimate_norms([X], ["found"], batches=1)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(".norms.found.running_" in key for key in changed)


def test_copies_keep_the_name(network: QuantizableNetwork) -> None:
    network.set_bits("found")
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert copied.bits == "found"
        copied.set_bits(2)
        copied.set_bits("found")
        assert torch.equal(copied(X), network(X))


def test_a_new_head_and_norm_belong_to_it_too(network: QuantizableNetwork) -> None:
    network.set_bits("found")
    network.model[10] = nn.Linear(24, 7)
    network.model[7] = nn.BatchNorm2d(6)
    network.set_bits("found")
    assert network(X).shape == (32, 7)
    assert network.norms()["7"].active is network.norms()["7"].norms["found"]


def test_files_hold_it(network: QuantizableNetwork, tmp_path: Path) -> None:
    with network.at_bits("found"):
        found = network(X)
    save_checkpoint(network, tmp_path / "a.ckpt")
    save_qz(network, tmp_path / "a.qz")
    save_qz(network, tmp_path / "one.qz", [4])
    for name in ("a.ckpt", "a.qz"):
        loaded = quantizable.load(tmp_path / name, float_model())
        loaded.set_bits("found")
        torch.testing.assert_close(loaded(X), found, rtol=0, atol=0)
        with loaded.at_bits(2), network.at_bits(2):
            torch.testing.assert_close(loaded(X), network(X), rtol=0, atol=0)
    without = quantizable.load(tmp_path / "one.qz", float_model())
    assert not without.assignments
    assert not [key for key in without.state_dict() if "found" in key]
    with pytest.raises(ValueError, match="no mode to store; name at least one beside found"):
        save_qz(network, tmp_path / "b.qz", ["found"])
    session = Session(tmp_path / "a.qz", "torch", "found", model=float_model())
    torch.testing.assert_close(torch.from_numpy(session(X)), found, rtol=0, atol=0)
    assert session.bits == "found"


def test_it_costs_what_its_layers_cost(network: QuantizableNetwork) -> None:
    rows = layer_costs(network, (3, 8, 8))
    own = {row.layer: row for row in rows if row.mode == "found"}
    weights = {"0": 3 * 6 * 9, "3": 6 * 6 * 9, "6": 6 * 6 * 9, "10": 24 * 4}
    macs = {"0": weights["0"] * 36, "3": weights["3"] * 16, "6": weights["6"] * 4, "10": weights["10"]}
    widths = {"0": (8, 8), "3": (2, 4), "6": (4, 4), "10": (8, 8)}
    assert {name: row.bops for name, row in own.items()} == {
        n: macs[n] * w * a for n, (w, a) in widths.items()
    }
    totals = {total.mode: total for total in mode_costs(network, rows)}
    packed = sum(weights[name] * w // 8 for name, (w, _) in widths.items())
    assert totals["found"].weight_bytes == packed + 4 * (22 + 22)  # biases, a step size a channel
    assert totals["found"].other_bytes == totals["4"].other_bytes == 4 * 36  # norms of one mode


def test_digests_tell_assignments_apart() -> None:
    digests = set()
    for bits in ({"*": 2}, {"*": 4}):
        network = make()
        network.add_assignment("found", bits)
        for norm in network.norms().values():  # the same tensors under both
            norm.norms["found"].load_state_dict(norm.norms["32"].state_dict())
        digests.add(digest_network(network))
    assert len(digests) == 2


def test_a_saved_assignment_becomes_one(network: QuantizableNetwork) -> None:
    copied = make()
    saved = SavedAssignment(FOUND, norm_batches=1)
    saved.hold(copied, "found", [X])
    applied = make()
    saved.apply(applied, [X])
    copied.set_bits("found")
    torch.testing.assert_close(copied(X), applied(X), rtol=0, atol=0)


def test_the_words_of_bits_name_it(network: QuantizableNetwork) -> None:
    def no_data() -> DataModule:
        raise AssertionError

    assert [one.name for one in choose("32,found,2", network, no_data)] == ["found", "2", "32"]
    # without a list the highest mode is the last, with which the others are compared
    assert [one.name for one in choose(None, network, no_data)] == ["found", "2", "4", "32"]


def test_options_of_quantize_hold_it() -> None:
    network = make(assignments={"found": {"*": 2, "6": 4}})
    assert network.config["assignments"] == {"found": {"0": 8, "3": 2, "6": 4, "10": 8}}
    assert "assignments" not in make().config


@pytest.mark.parametrize(
    ("name", "bits", "message"),
    [
        ("4", FOUND, "cannot be called '4'"),
        ("w4a8", FOUND, "cannot be called 'w4a8'"),
        ("keys", FOUND, "cannot be called 'keys'"),
        ("a.b", FOUND, "cannot be called 'a.b'"),
        ("found", FOUND, "has an assignment 'found' already"),
        ("other", {"3": 2}, "no pattern matches layer '0'"),
        ("other", {"*": 5}, "'other' cannot be added; layer '3'"),
        ("other", {"*": 2, "0": 4}, "layer '0' is fixed at 8 bits"),
        ("other", {"*": 2, "nothing": 4}, "matches nothing"),
    ],
)
def test_what_cannot_be_held(
    network: QuantizableNetwork, name: str, bits: dict[str, int | str], message: str
) -> None:
    before, keys = copy.deepcopy(network.config), [*network.state_dict()]
    with pytest.raises(ValueError, match=message):
        network.add_assignment(name, bits)
    assert (network.config, [*network.state_dict()]) == (before, keys)


def test_an_unknown_name_lists_what_there_is(network: QuantizableNetwork) -> None:
    with pytest.raises(ValueError, match="no assignment 'foudn'; it has 2, 4, 32, found"):
        network.set_bits("foudn")
    with pytest.raises(ValueError, match="bit mode 'found' is not understood"):
        make().set_bits("found")
