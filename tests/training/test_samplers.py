"""Which modes a step visits: highest first, the same ones again for the same seed and step."""

from collections import Counter
from itertools import pairwise

import pytest

from quantizable.bits import BitMode, parse_modes
from quantizable.training.samplers import AllModes, LayerWise, RandomK, Sampler, Sandwich

MODES = parse_modes([2, 3, 4, 8, 32])
LAYERS = [f"layer{i}" for i in range(20)]


def numbers(sampler: Sampler, step: int = 0, seed: int = 0) -> list[int]:
    visits = sampler.visits(MODES, LAYERS, seed, step)
    assert all(isinstance(visit, BitMode) for visit in visits)
    return [visit.weight for visit in visits if isinstance(visit, BitMode)]


def test_all_modes_from_the_highest_to_the_lowest() -> None:
    assert numbers(AllModes()) == [32, 8, 4, 3, 2]


@pytest.mark.parametrize(("sampler", "count"), [(Sandwich(), 3), (Sandwich(2), 4), (RandomK(2), 3)])
def test_samples_begin_at_the_top_and_descend(sampler: Sampler, count: int) -> None:
    for step in range(30):
        seen = numbers(sampler, step)
        assert seen[0] == 32
        assert len(seen) == count
        assert all(higher > lower for higher, lower in pairwise(seen))


def test_the_sandwich_always_ends_at_the_lowest_mode_and_draws_evenly_between() -> None:
    seen = [numbers(Sandwich(), step) for step in range(600)]
    assert {modes[-1] for modes in seen} == {2}
    drawn = Counter(modes[1] for modes in seen)
    assert drawn.keys() == {3, 4, 8}
    assert all(150 < count < 250 for count in drawn.values())  # 200 expected, standard deviation 12


def test_random_k_reaches_every_mode() -> None:
    assert {m for step in range(50) for m in numbers(RandomK(1), step)[1:]} == {2, 3, 4, 8}
    assert numbers(RandomK(99)) == [32, 8, 4, 3, 2]


def test_layer_wise_gives_each_layer_a_mode_below_the_highest() -> None:
    first, *mixed = LayerWise(3).visits(MODES, LAYERS, 0, 0)
    assert first == MODES[-1]
    assert len(mixed) == 3
    for assignment in mixed:
        assert isinstance(assignment, dict)
        assert [*assignment] == LAYERS
        assert {mode.weight for mode in assignment.values()} <= {2, 3, 4, 8}
        assert len(set(assignment.values())) > 1


@pytest.mark.parametrize("sampler", [Sandwich(), RandomK(2), LayerWise()])
def test_a_resumed_run_draws_what_it_would_have_drawn(sampler: Sampler) -> None:
    first = [sampler.visits(MODES, LAYERS, 5, step) for step in range(10)]
    again = [sampler.visits(MODES, LAYERS, 5, step) for step in range(10)]
    assert first == again
    assert first != [sampler.visits(MODES, LAYERS, 6, step) for step in range(10)]


def test_modes_that_do_not_suit_are_refused() -> None:
    one, two = MODES[:1], MODES[:2]
    with pytest.raises(ValueError, match="at least 2"):
        Sandwich().check(one)
    with pytest.raises(ValueError, match="at least 2 besides the highest"):
        LayerWise().check(two)
    with pytest.raises(ValueError, match="k of at least 1"):
        RandomK(0).check(MODES)
    with pytest.raises(ValueError, match="randoms=-1"):
        Sandwich(-1).check(MODES)
    with pytest.raises(ValueError, match="samples of at least 1"):
        LayerWise(0).check(MODES)
    AllModes().check(one)
