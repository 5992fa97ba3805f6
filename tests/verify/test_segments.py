"""Lines of inputs: exact in their one number, and decided part by part."""

import pytest
import torch

from quantizable.assess.proofs import prove_the_rest
from quantizable.assess.searchers.constraint import LInf
from quantizable.assess.searchers.hunt import Found
from quantizable.verify import Box, Line, agree_along, chain, difference_bounds, segments
from quantizable.verify.rearranging import Unflatten
from quantizable.verify.stages import Activation, Linear
from tests.verify import test_attack as layers

MEAN, STD = torch.tensor([0.4, 0.5]).reshape(2, 1, 1), torch.tensor([0.2, 0.25]).reshape(2, 1, 1)


def network(kind="shortcut", modes=("8", "4")):
    first, others = layers.graphs_with(kind)
    return first, {mode: others[mode] for mode in modes}


def image():
    return torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", ["brightness", "contrast"])
def test_the_images_of_a_line(kind):
    x, t = image(), torch.tensor([-0.3, 0.0, 0.2], dtype=torch.float64)
    first, _ = network()
    line = Line.of(kind, x)
    by_hand = x.double() + t.reshape(-1, 1, 1, 1) * (1 if kind == "brightness" else (x - x.mean()).double())
    torch.testing.assert_close(line.at(t), by_hand.clamp(0, 1))
    normalized = (line.at(t) - MEAN.double()) / STD.double()
    torch.testing.assert_close(line.before(first, MEAN, STD)(t[:, None]), first(normalized))
    with pytest.raises(ValueError, match="allowed are brightness, contrast"):
        Line.of("hue", x)


def test_values_on_a_line_stay_inside_their_bounds_which_are_tighter_than_a_box():
    first, others = network()
    line = Line.of("brightness", image())
    a, b = (line.before(graph, MEAN, STD) for graph in (first, others["4"]))
    box = Box(*torch.tensor([[[-0.02]], [[0.03]]], dtype=torch.float64))
    bounds = difference_bounds(a, b, box, "joint")
    t = torch.linspace(-0.02, 0.03, 41, dtype=torch.float64)[:, None]
    for own, values in ((bounds.first, a.values(t)), (bounds.second, b.values(t))):
        for interval, value in zip(own, values, strict=True):
            assert interval.contains(value, 1e-12).all()
    x = (line.at(t) - MEAN.double()) / STD.double()
    around = Box(x.amin(0, keepdim=True), x.amax(0, keepdim=True))
    apart = difference_bounds(first, others["4"], around, "joint")
    assert (bounds.first[-1].width <= apart.first[-1].width + 1e-9).all()
    assert bounds.first[-1].width.sum() < 0.9 * apart.first[-1].width.sum()


def answers(first, others, low=-0.2, high=0.2, **options):
    line = Line.of("brightness", image())
    before = {name: line.before(graph, MEAN, STD) for name, graph in others.items()}
    whole = line.before(first, MEAN, STD)
    return whole, before, agree_along(whole, before, low, high, **options)


def test_what_is_proved_or_refuted_is_so():
    seen = set()
    for kind in ("shortcut", "max pooling"):
        first, others = network(kind, ("8", "2"))
        whole, before, found = answers(first, others, smallest=2.0**-5)
        t = torch.linspace(-0.2, 0.2, 2001, dtype=torch.float64)[:, None]
        for name, along in found.items():
            same = whole(t).argmax(1) == before[name](t).argmax(1)
            seen.add(along.status)
            assert 0 <= along.share <= 1 + 1e-12
            assert along.share <= float(same.double().mean()) + 1e-3
            if along.status == "proved":
                assert same.all()
                assert along.share == pytest.approx(1)
            if along.status == "refuted":
                at = torch.tensor([[along.at]], dtype=torch.float64)
                assert whole(at).argmax() != before[name](at).argmax()
    assert "proved" in seen


def test_a_line_whose_class_changes_is_proved_up_to_the_change():
    """Both networks are one: they agree everywhere, and the first changes its class once on the line."""
    weight = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    one = chain([Linear(weight, torch.zeros(2, dtype=torch.float64)), Activation()], [1])
    found = agree_along(one, {"same": one}, -0.3, 1.0, smallest=2.0**-6)["same"]
    assert found.status == "unknown"
    assert 1 - 3 * 2.0**-6 <= found.share < 1
    early = agree_along(one, {"same": one}, -0.3, 1.0, time_limit=1e-9)["same"]
    assert (early.status, early.share) == ("unknown", 0.0)
    assert agree_along(one, {"same": one}, 0.5, 0.5)["same"].status == "proved"
    with pytest.raises(ValueError, match="a line is about one number"):
        agree_along(chain([Activation()], [3]), {}, 0, 1)


@pytest.mark.parametrize(
    ("place", "name", "rule"),
    [
        (Unflatten, "adjoint", lambda stage, y, shape: y.flip(-1).reshape(-1, *shape)),
        (
            segments,
            "prefixed",
            lambda graph, stages, shape: PREFIXED(graph, [*stages[:2], *stages[3:]], shape),
        ),
    ],
)
def test_a_wrong_rule_is_caught(place, name, rule, monkeypatch):
    """Coefficients of other pixels; a line that is not clamped."""
    monkeypatch.setattr(place, name, rule)
    with pytest.raises(AssertionError):
        check_both()


def check_both():
    test_the_images_of_a_line("brightness")
    test_values_on_a_line_stay_inside_their_bounds_which_are_tighter_than_a_box()


PREFIXED = segments.prefixed


def test_what_a_search_did_not_flip_is_proved_or_stays_open():
    first, others = network("shortcut", ("8", "2"))
    second = others["2"]
    seeds = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    nothing = torch.zeros(6, dtype=torch.long)
    x = (seeds.double() - MEAN.double()) / STD.double()
    differ = first(x).argmax(1) != second(x).argmax(1)
    success = torch.tensor([False] * 5 + [True])  # the last is said to be flipped, by the seed itself
    found = Found("a searcher", success, nothing, nothing, seeds, torch.full((6, 2), -1))
    limits = {"mean": MEAN, "std": STD, "time_limit": 0.5, "use_milp": False}
    verdicts = list(prove_the_rest(found, seeds, LInf(1e-5), first, second, **limits))
    assert len(verdicts) == 6
    for verdict, flipped in zip(verdicts, differ, strict=True):
        assert verdict.status != ("proved" if flipped else "refuted") or not flipped
        if verdict.status == "proved":
            assert not flipped
    assert {verdict.status for verdict in verdicts} >= {"proved"}
    assert (verdicts[5].method == "a searcher") == bool(differ[5])
    flipped = int(differ.nonzero()[0, 0]) if differ.any() else None
    if flipped is not None:
        said = Found("a searcher", differ, nothing, nothing, seeds, torch.full((6, 2), -1))
        told = list(prove_the_rest(said, seeds, LInf(1e-5), first, second, **limits))[flipped]
        assert (told.status, told.method) == ("refuted", "a searcher")
