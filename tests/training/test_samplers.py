"""Which modes a step visits: highest first, the same ones again for the same seed and step."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

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


def test_layers_lean_to_few_bits_by_size_and_to_many_by_sensitivity(tmp_path: Path) -> None:
    """Frequencies against the formula, worked out by hand for sizes and sensitivities of two steps."""
    sizes = {"small": 1.0, "large": math.e**2}  # logarithms 0 and 2: standard scores -1 and 1
    file = tmp_path / "sensitivity.csv"
    file.write_text("layer,mode,kl\nsmall,2,0.5\nsmall,4,1.5\nlarge,2,0.01\nlarge,4,0.01\n")
    modes = [BitMode.parse(mode) for mode in (2, 4, 8, 32)]
    for sampler, lean in (
        (LayerWise(4000, by_size=True), 1.0),
        (LayerWise(4000, sensitivity=str(file)), 1.0),
        (LayerWise(4000, by_size=True, sensitivity=str(file)), 2.0),
    ):
        first, *mixed = sampler.visits(modes, sizes, 0, 0)
        assert first == modes[-1]
        for name, sign in (("large", 1), ("small", -1)):
            odds = [math.exp(sign * lean), 1.0, math.exp(-sign * lean)]
            counts = Counter(assignment[name] for assignment in mixed)  # type: ignore[index]
            for mode, one in zip(modes, odds, strict=False):
                share = one / sum(odds)
                # five standard deviations of a count
                assert abs(counts[mode] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5
    assert LayerWise(by_size=True).leans(dict.fromkeys(sizes, 7.0)) == {"small": 0.0, "large": 0.0}


def test_a_wrong_file_of_sensitivities_is_refused(tmp_path: Path) -> None:
    for text in (None, "layer,mode\na,2\n", "layer,mode,kl\na,2,much\n"):
        path = tmp_path / f"{text and len(text)}.csv"
        if text:
            path.write_text(text)
        with pytest.raises(ValueError, match=r"is no sensitivity\.csv of quantizable search sensitivity"):
            LayerWise(sensitivity=str(path)).check([BitMode.parse(mode) for mode in (2, 4, 32)])
