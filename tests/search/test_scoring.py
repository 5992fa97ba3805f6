"""Scores: what they mean, that they are kept, and that measuring leaves no trace."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantizable.assess.corruptions import corrupt
from quantizable.assess.shift_measure import shift_disagreement
from quantizable.bits import BitMode
from quantizable.certify.certification import Certified
from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import Smoothing
from quantizable.network import QuantizableNetwork
from quantizable.search.measures import proved_difference
from quantizable.search.scoring import BROKEN_KL, Scorer, value_of
from quantizable.search.space import Space
from tests.search.conftest import make_network


def test_the_highest_mode_agrees_with_itself(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    labels = network(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 5
    score = Scorer(network, images, labels, tmp_path)(dict.fromkeys(network.layers(), network.modes[-1]))
    assert score["accuracy"] == 0.75
    assert score["agreement"] == 1.0
    assert score["kl"] == pytest.approx(0.0, abs=1e-6)


def test_scores_are_kept_on_disk_and_not_measured_again(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    space, labels = Space.of(network), torch.zeros(len(images))
    first = Scorer(network, images, labels, tmp_path)
    score = first(space.assignment(space.lowest))
    again = Scorer(make_network(), images, labels, tmp_path)
    assert again(space.assignment(space.lowest)) == score
    assert (first.measured, again.measured) == (1, 0)
    other = Scorer(make_network(seed=5), images, labels, tmp_path)  # other weights: another file
    assert other.known == {}
    smoothing = Smoothing(0.1, n=100, n0=20)
    others = [
        Scorer(network, images.flip(0), labels, tmp_path),
        Scorer(network, images, labels, tmp_path, [images]),
        Scorer(network, images, labels, tmp_path, [images[:3], images[3:]]),  # the same bytes
        *(
            Scorer(network, images, labels, tmp_path, incremental=Incremental(s, 50), robust_images=2)
            for s in (smoothing, replace(smoothing, sigma=0.2), replace(smoothing, seed=1))
        ),
    ]
    assert len({one.name for one in [first, other, *others]}) == 2 + len(others)


def test_an_assignment_that_breaks_the_network_is_the_worst(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    space, labels = Space.of(network), torch.zeros(len(images))
    with torch.no_grad():
        network.norms()["4"].norms["2"].bias.fill_(float("nan"))
    scorer = Scorer(network, images, labels, tmp_path)
    score = scorer(space.assignment(space.lowest))
    assert (score["accuracy"], score["agreement"], score["kl"]) == (0.0, 0.0, BROKEN_KL)


def test_measuring_fits_the_norms_and_leaves_the_network_as_it_was(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    space, labels = Space.of(network), torch.zeros(len(images))
    shifted = images + 1.0
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assignment = space.assignment(space.lowest)
    as_they_are = Scorer(network, images, labels, tmp_path)(assignment)
    fitted = Scorer(network, images, labels, tmp_path, norm_inputs=[shifted])(assignment)
    assert as_they_are["kl"] != fitted["kl"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.bits == 32


def test_acr_is_that_of_incremental_certification(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    labels = network(images).argmax(1)
    smoothing = Smoothing(0.1, n=100, n0=20)
    incremental = Incremental(smoothing, samples=50)
    scorer = Scorer(network, images, labels, tmp_path, incremental=incremental, robust_images=4)
    space = Space.of(network)
    score = scorer(space.assignment(space.lowest))
    radii = []
    for i in range(4):
        with network.at_bits(32):
            first, votes = smoothing.certify(network, images[i], i)
        with network.at_bits(2):
            second = incremental.certify(network, images[i], i, first, votes)
        radii.append(second.radius if second.predicted == labels[i] else 0.0)
    assert score["acr"] == pytest.approx(sum(radii) / 4)
    middle = sorted(radii)[1]
    one = Scorer(network, images, labels, tmp_path, incremental=incremental, robust_images=4, radius=middle)
    share = one(space.assignment(space.lowest))["certified"]
    right = [r.certificate.predicted == r.label for r in certified_again(one, space)]
    assert share == sum(ok and r >= middle for ok, r in zip(right, radii, strict=True)) / 4


def certified_again(scorer: Scorer, space: Space) -> list[Certified]:
    with scorer.network.at_bits(space.assignment(space.lowest)):
        return scorer.certify()


def test_shifts_and_proofs_are_measured_as_asked(
    network: QuantizableNetwork, images: Tensor, tmp_path: Path
) -> None:
    space, labels = Space.of(network), torch.zeros(len(images))
    images = images[:8].sigmoid()
    shifts = shift_disagreement(network, images, ((0.0,) * 3, (1.0,) * 3), ["fog", "contrast"], 2)
    proved = proved_difference(network, images, 0.01)
    scorer = Scorer(network, images, labels[:8], tmp_path, measures=[shifts, proved])
    top, low = (scorer(space.assignment(space.uniform(BitMode(b, b)))) for b in (8, 2))
    shifted = torch.cat([corrupt(images, name, 2) for name in ("fog", "contrast")])
    with torch.no_grad():
        wanted = network(shifted).argmax(1)
        with network.at_bits(2):
            assert low["shifts"] == (network(shifted).argmax(1) != wanted).double().mean().item()
        generator = torch.Generator().manual_seed(0)
        noise = (torch.rand(50, *images[:4].shape, generator=generator) * 2 - 1) * 0.01
        near = (images[:4] + noise).flatten(0, 1)
        exact = network(near)
        with network.at_bits(2):
            seen = (network(near) - exact).abs().amax(1).reshape(50, 4).amax(0).mean().item()
    assert 0 < seen <= low["proved"] < 10
    assert top["proved"] < low["proved"]
    assert value_of(top, "proved") > value_of(low, "proved")


def test_no_images_and_broken_networks_are_refused(network: QuantizableNetwork, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        Scorer(network, torch.zeros(0, 3, 8, 8), torch.zeros(0), tmp_path)
    with torch.no_grad():
        network.layers()["14"].bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        Scorer(network, torch.zeros(2, 3, 8, 8), torch.zeros(2), tmp_path)
