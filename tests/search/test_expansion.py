"""The expansion against the network itself and against its formula written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quantizable
from quantizable.bits import BitMode
from quantizable.network import QuantizableNetwork
from quantizable.search.expansion import Expansion, expand
from quantizable.search.fisher import strongest_pairs
from quantizable.search.space import Space
from quantizable.storage.assignment import add_modes


def test_a_linear_network_is_expanded_exactly() -> None:
    """Without anything curved between a layer and the logits, only the softmax is approximated."""
    torch.manual_seed(0)
    network = quantizable.quantize(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)), [3, 8], first_last="mode")
    x = torch.randn(300, 6)
    network.eval().calibrate([x])
    space = Space.of(network)
    add_modes(network, space.modes)
    reference = space.uniform(BitMode(8, 8))
    found = expand(network, space, [x], reference, draws=400)
    with torch.no_grad(), network.at_bits(8):
        wanted = network(x)
    # one layer at a time: the last, whose outputs are the logits
    for index, mode in enumerate(space.modes[:-1]):
        with torch.no_grad(), network.at_bits({"0": 8, "1": mode}):
            d = network(x) - wanted
        p = wanted.softmax(1)
        by_hand = 0.5 * ((p * d * d).sum(1) - (p * d).sum(1).square()).mean().item()
        assert found.alone()[1, index] == pytest.approx(by_hand, rel=0.05)
        kl = F.kl_div((wanted + d).log_softmax(1), p, reduction="batchmean").item()
        assert kl == pytest.approx(by_hand, rel=0.2)
    assert found.constant == pytest.approx(0, abs=1e-6)
    assert np.allclose(found.first, 0, atol=1e-6)  # the highest mode is where the divergence is least
    assert (found.alone()[:, -1] == 0).all()


def test_pairs_make_the_square_of_a_sum() -> None:
    torch.manual_seed(1)
    effects = torch.randn(50, 6).double().numpy()  # of 3 layers in 2 modes
    first = np.arange(6.0).reshape(3, 2)
    expansion = Expansion((0,) * 6, 0.5, first, effects.T @ effects / 50)
    chosen = np.array([[0, 1, 0], [1, 1, 1]])
    for row, found in zip(chosen, expansion.divergence(chosen), strict=True):
        columns = [2 * layer + mode for layer, mode in enumerate(row)]
        total = effects[:, columns].sum(1)
        assert found == pytest.approx(0.5 + first.ravel()[columns].sum() + (total**2).mean() / 2)
    pairs = strongest_pairs(expansion, 4)
    assert all(i < j for i, _, j, _ in pairs)
    sizes = sorted(abs(expansion.second[2 * i + m, 2 * j + n]) for i in range(3) for j in range(i + 1, 3)
                   for m in range(2) for n in range(2))  # fmt: skip
    assert sorted(map(abs, pairs.values())) == pytest.approx(sizes[-4:])


def test_what_an_expansion_is_off_by_is_learned() -> None:
    generator = np.random.default_rng(0)
    second = np.eye(12) * 0.1
    wrong = Expansion((0,) * 8, 0.0, np.zeros((4, 3)), second)
    truth = generator.random((4, 3))
    chosen = generator.integers(0, 3, (200, 4))
    measured = truth[np.arange(4), chosen].sum(1)
    right = wrong.corrected(chosen[:100], measured[:100])
    assert right.divergence(chosen[100:]) == pytest.approx(measured[100:], abs=0.02)


def test_an_expansion_ranks_assignments_of_a_network(network: QuantizableNetwork, images: Tensor) -> None:
    """What single layers do at 2 bits is about what is measured: the norms are fitted in one, not in both."""
    space = Space.of(network)
    add_modes(network, space.modes)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = expand(network, space, images.split(20), space.highest, draws=16)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.bits == 32
    with torch.no_grad():
        wanted = network(images).log_softmax(1)
        measured = []
        for i in range(3):
            genome = list(space.highest)
            genome[2 * i : 2 * i + 2] = 0, 0
            with network.at_bits(space.assignment(tuple(genome))):
                own = network(images).log_softmax(1)
                measured.append(F.kl_div(own, wanted, reduction="batchmean", log_target=True).item())
    assert found.alone()[:, 0] == pytest.approx(measured, rel=0.6)
    assert np.argmin(found.alone()[:, 0]) == np.argmin(measured)


def test_a_network_of_two_outputs_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.b(self.a(x))
            return x, self.c(x)

    network = quantizable.quantize(Pair(), [2, 4])
    network.eval().calibrate([torch.randn(4, 4)])
    space = Space.of(network)
    add_modes(network, space.modes)
    with pytest.raises(ValueError, match="needs a network that gives logits"):
        expand(network, space, [torch.randn(4, 4)], space.lowest)
