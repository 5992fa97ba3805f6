"""Class agreement of modes over a box, against enumeration of whole-number boxes."""

import time

import pytest
import torch

from quantizable.verify import (
    Box,
    FixedPoint,
    class_program,
    decide_agreement,
    fixed_point_network,
    largest_radius,
)
from quantizable.verify import bounds as bounds_module
from quantizable.verify.agreement import margin_bounds
from quantizable.verify.robustness import margin_layer
from tests.verify.conftest import random_pair
from tests.verify.test_decide import all_inputs


def modes(seed, bits=(3, 8)):
    """A float network and two fixed-point modes of it, of three inputs and three classes."""
    pairs = {str(b): random_pair(seed, sizes=(3, 6, 3), bits=b) for b in bits}
    return pairs[str(bits[0])][0], {name: second for name, (_, second) in pairs.items()}


def box_of(radius, center=90.0):
    return Box.around(torch.full((1, 3), center), radius, 0, 255, integer=True)


@pytest.mark.parametrize("seed", range(8))
def test_verdict_equals_enumeration(seed):
    first, others = modes(seed)
    for radius in (0, 1, 5):
        box = box_of(radius)
        x = all_inputs(box)
        for name, verdict in decide_agreement(first, others, box, 10).items():
            same = first(x).argmax(1) == others[name](x).argmax(1)
            if verdict.status == "proved":
                assert same.all()
            if verdict.status == "refuted":
                found = verdict.counterexample
                assert box.contains(found.x[None]).all()
                assert found.first.argmax() != found.second.argmax()
                assert not same.all()
            if not same.all():
                assert verdict.status != "proved"


def test_margins_are_inside_their_bounds():
    first, others = modes(3)
    box = box_of(6)
    x = all_inputs(box)
    layer = margin_layer(3, int(first(box.center).argmax()))
    for name, (own, second) in margin_bounds(first, others, box).items():
        assert own.contains(layer.multiply(first(x)), 1e-12).all()
        assert second.contains(layer.multiply(others[name](x)), 1e-12).all()


def test_margins_use_the_difference_too():
    """The second network's margins are those of the first plus the difference, where that says more."""
    first, second = random_pair(1, sizes=(4, 6, 6, 3), bits=8)
    box = Box.around(torch.full((1, 4), 128.0), 12, 0, 255, integer=True)
    own, margins = margin_bounds(first, {"": second}, box)[""]
    layer = margin_layer(3, int(first(box.center).argmax()))
    bounds = bounds_module.difference_bounds(first.then(layer), second.then(layer), box)
    assert (margins.low >= bounds.second[-1].low).all()
    assert (margins.low >= own.low + bounds.output.low - 1e-9).all()


def test_the_float_network_is_bounded_once_for_all_modes(monkeypatch):
    first, others = modes(2, (2, 4, 8))
    asked = []

    class Counted(bounds_module.Reach):
        def __init__(self, graph, box, method, *rest):
            asked.append((graph.sha256, method))
            super().__init__(graph, box, method, *rest)

    monkeypatch.setattr(bounds_module, "Reach", Counted)
    together = margin_bounds(first, others, box_of(2))
    assert len(asked) == len(set(asked))
    for name, second in others.items():
        alone = margin_bounds(first, {name: second}, box_of(2))[name]
        assert torch.equal(alone[1].low, together[name][1].low)


def test_the_largest_radius():
    first, others = modes(0, (4, 8))
    center = torch.tensor([[90.0, 40.0, 200.0]], dtype=torch.float64)

    def boxes(radius):
        return Box.around(center, radius, 0, 255)

    found = largest_radius(boxes, first, others, 64.0, steps=7)
    for name, radius in found.items():
        one = {name: others[name]}
        assert radius is not None
        assert decide_agreement(first, one, boxes(radius), use_milp=False)[name].method == "bounds"
        if radius < 64:
            beyond = decide_agreement(first, one, boxes(radius + 0.5), use_milp=False)[name]
            assert (beyond.status, beyond.method) != ("proved", "bounds")


def test_no_radius_where_the_center_disagrees():
    weights = [torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]
    other = fixed_point_network(weights, [torch.zeros(3).double()] * 2, FixedPoint(8))
    center = torch.tensor([[10.0, 100.0, 200.0]], dtype=torch.float64)
    verdict = decide_agreement(other, {"same": other}, Box.around(center, 1))["same"]
    assert verdict.status == "proved"
    turned = fixed_point_network([weights[0], -weights[1]], [torch.zeros(3).double()] * 2, FixedPoint(8))
    verdict = decide_agreement(other, {"turned": turned}, Box.around(center, 1))["turned"]
    assert verdict.status == "refuted"
    assert largest_radius(lambda r: Box.around(center, r), other, {"turned": turned}, 1.0) == {"turned": None}


def test_questions_that_make_no_sense():
    first, others = modes(0)
    with pytest.raises(ValueError, match="one box, not 2"):
        decide_agreement(first, others, Box.around(torch.full((2, 3), 9.0), 1))


def at_a_boundary(first, radius=4):
    """A box around the whole-number input, of many random ones, where the two largest outputs are closest."""
    x = torch.randint(radius, 256 - radius, (4000, 3), generator=torch.Generator().manual_seed(0)).double()
    top = first(x).topk(2, dim=1).values
    return Box.around(x[(top[:, 0] - top[:, 1]).argmin()][None], radius, 0, 255, integer=True)


def test_where_the_class_changes_in_both_networks_the_program_asks_about_both():
    """The first network's own boundary runs through the box: neither keeps its class, and they may agree."""
    decided = changing = 0
    for seed in range(16):
        first, second = random_pair(seed, sizes=(3, 6, 3), bits=4)
        box = at_a_boundary(first)
        x = all_inputs(box)
        a, b = first(x).argmax(1), second(x).argmax(1)
        changing += len(a.unique()) > 1
        verdict = decide_agreement(first, {"4": second}, box, 10)["4"]
        assert verdict.status != "proved" or torch.equal(a, b)
        decided += verdict.status != "unknown"
    assert changing >= 8
    assert decided >= 12


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_of_classes_that_is_ruled_out_occurs_nowhere(monkeypatch, seed):
    first, second = random_pair(seed, sizes=(3, 6, 3), bits=3)
    box = at_a_boundary(first, radius=8)
    x = all_inputs(box)
    pairs = set(zip(first(x).argmax(1).tolist(), second(x).argmax(1).tolist(), strict=True))
    found = []
    rounds = class_program.in_rounds

    def noted(*args):
        found.append(rounds(*args)[0])
        return "proved", "", None  # on to the next pair

    monkeypatch.setattr(class_program, "in_rounds", noted)
    bounds = bounds_module.difference_bounds(first, second, box)
    own, other = (class_program.possible(part[-1]) for part in (bounds.first, bounds.second))
    asked = [(i, j) for i in own for j in other if i != j]
    assert {(i, j) for i, j in pairs if i != j} <= set(asked)
    class_program.agree_by_program(first, second, box, lambda _: None, time.perf_counter() + 20)
    for pair, status in zip(asked, found, strict=True):
        assert status != "proved" or pair not in pairs
