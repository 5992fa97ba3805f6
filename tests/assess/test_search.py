"""Searchers: never an input outside the constraint, never a query too many, the same for the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizable.assess.callables import Pair
from quantizable.assess.images import Images
from quantizable.assess.relations import Relation, Relations, relations_for
from quantizable.assess.relations.natural import brightness
from quantizable.assess.searchers import (
    Coverage,
    DiffChaser,
    Diva,
    DiverGet,
    Gradient,
    Hunt,
    LInf,
    Psnr,
    RandomNoise,
    RandomRelations,
    Surprise,
    search_inputs,
)
from quantizable.assess.searchers.comparison import agreeing, compare_searchers, relation_searchers
from quantizable.assess.searchers.constraint import psnr
from quantizable.assess.searchers.optimizers import OPTIMIZERS
from quantizable.assess.study import Study, searched
from tests.assess.conftest import threshold_model

NATURAL = relations_for(1)
ONE_HALF = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
SEARCHERS = [
    RandomNoise(),
    RandomRelations(NATURAL),
    Diva(steps=5),
    Gradient(steps=5),
    *(DiffChaser(fitness, population=4) for fitness in ("basic", "uncertainty", "target")),
    *(DiverGet(NATURAL, optimizer, batch=2, generations=3) for optimizer in ("pso", "genetic", "cma")),
    DiverGet(NATURAL, "pso", Coverage(Surprise(ONE_HALF)), population=4, batch=2, generations=3),
]
NAMES = [searcher.name for searcher in SEARCHERS]


def seeds(levels: list[float]) -> torch.Tensor:
    """Flat images, a little textured so that relations have something to act on."""
    texture = 0.02 * torch.sin(torch.arange(64.0)).view(8, 8)
    return torch.tensor(levels).view(-1, 1, 1, 1) + texture


@pytest.mark.parametrize("searcher", SEARCHERS, ids=NAMES)
@pytest.mark.parametrize("constraint", [LInf(0.03), Psnr(20)], ids=str)
def test_what_is_returned_is_allowed_and_disagrees(searcher, constraint, planted: Pair) -> None:  # type: ignore[no-untyped-def]
    start = seeds([0.47, 0.49, 0.55])
    found = search_inputs(searcher, planted, start, torch.tensor([0, 0, 1]), constraint, budget=30)
    assert (found.spent <= 30).all()
    assert (found.queries[found.success] >= 1).all()
    assert constraint.allows(found.inputs, start).all()
    a, b = (rows.argmax(1) for rows in planted.probabilities(found.inputs))
    assert torch.equal(a != b, found.success)
    assert torch.equal(torch.stack((a, b), 1)[found.success], found.answers[found.success])
    assert torch.equal(found.inputs[~found.success], start[~found.success])
    again = search_inputs(searcher, planted, start, torch.tensor([0, 0, 1]), constraint, budget=30)
    assert torch.equal(found.inputs, again.inputs)
    assert torch.equal(found.queries, again.queries)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(SEARCHERS),
    st.floats(0.002, 0.3),
    st.booleans(),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_no_searcher_leaves_the_constraint(
    searcher, size: float, maximum: bool, budget: int, seed: int
) -> None:  # type: ignore[no-untyped-def]
    pair = Pair(threshold_model(0.50), threshold_model(0.52))
    source = torch.Generator().manual_seed(seed)
    start = torch.rand(3, 1, 6, 6, generator=source)
    constraint = LInf(size) if maximum else Psnr(5 + 100 * size)
    found = search_inputs(searcher, pair, start, torch.zeros(3, dtype=torch.long), constraint, budget, seed)
    assert (found.spent <= budget).all()
    assert (found.inputs >= 0).all()
    assert (found.inputs <= 1).all()
    if maximum:
        assert (found.inputs - start).abs().max() <= size + 1e-6
    else:
        error = (found.inputs - start).double().square().flatten(1).mean(1)
        assert (-10 * error.log10() >= 5 + 100 * size - 1e-4).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1, 60), st.floats(0.001, 1))
def test_projection_ends_inside(seed: int, decibel: float, eps: float) -> None:
    source = torch.Generator().manual_seed(seed)
    start, wild = torch.rand(4, 2, 5, 5, generator=source), 3 * torch.randn(4, 2, 5, 5, generator=source)
    for constraint in (Psnr(decibel), LInf(eps)):
        assert constraint.allows(constraint.project(wild, start), start).all()
        torch.testing.assert_close(constraint.project(start, start), start)


def test_psnr_by_hand() -> None:
    zero = torch.zeros(2, 1, 2, 2)
    changed = zero.clone()
    changed[0] = 0.1
    assert psnr(changed, zero).tolist() == [pytest.approx(20), float("inf")]


def test_the_gradient_finds_what_chance_does_not(planted: Pair) -> None:
    start, labels = seeds([0.475] * 8), torch.zeros(8, dtype=torch.long)
    by_gradient = search_inputs(Gradient(), planted, start, labels, LInf(0.04), budget=60)
    by_chance = search_inputs(RandomNoise(), planted, start, labels, LInf(0.04), budget=60)
    assert by_gradient.success.all()
    assert by_chance.success.sum() < by_gradient.success.sum()


def test_the_ledger_counts_queries_and_closes_accounts(planted: Pair) -> None:
    hunt = Hunt(planted, seeds([0.3, 0.4]), torch.zeros(2), LInf(0.5), budget=3)
    owner = torch.tensor([0, 1, 0, 0, 0])
    inputs = seeds(
        [0.3, 0.51, 0.3, 0.3, 0.51]
    )  # the second seed's input disagrees; so does the first seed's fourth
    p, _ = hunt.ask(inputs, owner)
    assert hunt.queries.tolist() == [3, 1]
    assert hunt.first.tolist() == [0, 1]  # beyond the budget nothing is recorded ...
    assert p.isnan().all(1).tolist() == [False, False, False, False, True]  # ... nor learned
    assert hunt.active().tolist() == []


def test_a_gradient_costs_three_queries(planted: Pair) -> None:
    hunt = Hunt(planted, seeds([0.3]), torch.zeros(1), LInf(0.5), budget=5)
    hunt.gradient(seeds([0.3]), torch.tensor([0]))
    assert hunt.queries.tolist() == [3]
    assert hunt.active(3).tolist() == []


def test_a_gradient_is_taken_of_the_objective_that_is_asked_for(planted: Pair) -> None:
    inputs, owner = seeds([0.3]), torch.tensor([0])
    hunt = Hunt(planted, inputs, torch.zeros(1), LInf(0.5), budget=9)
    slope, answers = hunt.gradient(inputs, owner, lambda a, b, y: 2 * a[:, 1] + 3 * b[:, 0])
    # logit 1 of the reference is 20 (mean - edge) and logit 0 of the other its negative; 64 pixels
    torch.testing.assert_close(slope, torch.full_like(inputs, (2 - 3) * 20 / 64))
    assert answers.tolist() == [0]
    slope, _ = hunt.gradient(inputs, owner)  # of p_ref[0] - p_quant[0], by hand
    p, q = (rows[0, 0] for rows in planted.probabilities(inputs))
    by_hand = (-p * (1 - p) + q * (1 - q)) * 40 / 64
    torch.testing.assert_close(slope, by_hand.expand_as(slope))


@pytest.mark.parametrize("pair", ["both", "reference", "quantized", "surrogate", "none"])
def test_the_walk_takes_gradients_where_it_finds_them(pair: str, planted: Pair) -> None:
    """A strip so narrow that no step meets it by chance: halving steps do, whatever the gradient is of."""
    models = [threshold_model(0.50), threshold_model(0.5001)]  # 1/300 of the first step
    bare = [lambda x, m=model: m(x).detach() for model in models]  # type: ignore[misc]
    first, second = {
        "both": models, "reference": [models[0], bare[1]], "quantized": [bare[0], models[1]],
    }.get(pair, bare)  # fmt: skip
    surrogate = threshold_model(0.7) if pair == "surrogate" else None
    start, labels = seeds([0.47] * 4), torch.zeros(4, dtype=torch.long)
    walked = search_inputs(Gradient(), Pair(first, second, "", surrogate), start, labels, LInf(0.06), 60)
    assert walked.success.all()
    noisy = search_inputs(RandomNoise(), planted, start, labels, LInf(0.06), 60)
    assert not noisy.success.any()


def test_diva_needs_gradients_of_two_models() -> None:
    bare = lambda x: threshold_model(0.5)(x).detach()  # noqa: E731
    about = (seeds([0.3]), torch.zeros(1, dtype=torch.long), LInf(0.1), 10)
    with pytest.raises(ValueError, match="no gradient"):
        search_inputs(Diva(), Pair(bare, bare), *about)
    with pytest.raises(ValueError, match="only one model of this pair has a gradient"):
        search_inputs(Diva(), Pair(bare, threshold_model(0.52)), *about)
    with pytest.raises(ValueError, match="the surrogate has no gradient"):
        search_inputs(Gradient(), Pair(bare, bare, "", bare), *about)
    assert (
        search_inputs(Diva(), Pair(bare, threshold_model(0.52), "", threshold_model(0.5)), *about).spent == 10
    )


@pytest.mark.parametrize("searcher", [Diva(steps=2), Gradient(steps=2)], ids=lambda one: one.name)
def test_the_last_move_is_asked_about(searcher) -> None:  # type: ignore[no-untyped-def]
    """Two moves of half the radius: only after the second does the pair disagree, and forever."""
    edge = 0.3 + 0.8 * 0.1
    pair = Pair(threshold_model(2.0), threshold_model(edge))
    searcher.step = 0.5
    start = torch.full((1, 1, 8, 8), 0.3)
    # two gradients at 3 queries each, and one to ask about where the second led
    found = search_inputs(searcher, pair, start, torch.zeros(1, dtype=torch.long), LInf(0.1), 7)
    assert found.success.all()
    assert found.queries.tolist() == [7]


@pytest.mark.parametrize("searcher", SEARCHERS, ids=NAMES)
def test_no_model_is_asked_about_nothing(searcher, planted: Pair) -> None:  # type: ignore[no-untyped-def]
    """Engines refuse a batch of no images."""

    def counting(model):  # type: ignore[no-untyped-def]
        def run(pixels: torch.Tensor) -> torch.Tensor:
            assert len(pixels)
            return model(pixels)

        return run

    pair = Pair(counting(planted.reference), counting(planted.quantized))
    for budget in (1, 7):
        search_inputs(searcher, pair, seeds([0.49, 0.55]), torch.tensor([0, 1]), LInf(0.1), budget)


def test_a_pair_of_the_same_function_is_never_told_apart() -> None:
    pair = Pair(threshold_model(0.5), threshold_model(0.5))
    found = search_inputs(Gradient(), pair, seeds([0.48]), torch.zeros(1), LInf(0.1), 100)
    assert not found.success.any()
    assert found.spent.tolist() == [100]


def test_an_interrupted_search_keeps_what_it_found(planted: Pair) -> None:
    class Impatient:
        name = "impatient"

        def run(self, hunt: Hunt, generator: torch.Generator) -> None:
            hunt.ask(seeds([0.51]), torch.tensor([1]))
            raise KeyboardInterrupt

    images = Images(seeds([0.3, 0.4]), torch.zeros(2))
    rows = list(compare_searchers(planted, images, [Impatient(), RandomNoise()], LInf(0.5), 10))
    assert len(rows) == 1  # the next searcher is not started
    row, found = rows[0]
    assert not row.complete
    assert found.success.tolist() == [False, True]


def test_comparison_starts_from_agreeing_images_and_counts(planted: Pair) -> None:
    images = Images(seeds([0.3, 0.51, 0.9]), torch.tensor([0, 1, 1]))
    chosen = agreeing(planted, images)
    assert chosen.labels.tolist() == [0, 1]
    row, _ = next(compare_searchers(planted, chosen, [RandomNoise()], LInf(0.01), 5))
    assert (row.seeds, row.budget, row.success[0], row.queries) == (2, 5, 0.0, None)
    with pytest.raises(ValueError, match="agrees on no image"):
        agreeing(planted, Images(seeds([0.51]), torch.tensor([1])))


@pytest.mark.parametrize("decibel", [200, 0, -3, float("nan")])
def test_impossible_constraints_are_refused(decibel: float) -> None:
    with pytest.raises(ValueError, match="impossible"):
        Psnr(decibel)
    with pytest.raises(ValueError, match="impossible"):
        LInf(decibel)


def test_impossible_searches_are_refused(planted: Pair) -> None:
    start = seeds([0.3])
    with pytest.raises(ValueError, match="0 queries"):
        search_inputs(RandomNoise(), planted, start, torch.zeros(1), LInf(0.1), 0)
    with pytest.raises(ValueError, match="NaN"):
        search_inputs(RandomNoise(), planted, start * float("nan"), torch.zeros(1), LInf(0.1), 5)
    with pytest.raises(ValueError, match="no seeds"):
        search_inputs(RandomNoise(), planted, start[:0], torch.zeros(0), LInf(0.1), 5)
    with pytest.raises(ValueError, match="fitness 'best' is unknown"):
        DiffChaser("best")
    with pytest.raises(ValueError, match="population of 5"):
        DiffChaser(population=5)
    with pytest.raises(ValueError, match="optimizer 'annealing' is unknown"):
        DiverGet(NATURAL, "annealing")


def test_the_three_fitnesses_by_hand() -> None:
    rows = torch.tensor([[[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]]])  # one seed, two individuals
    aims = torch.tensor([1])
    basic, uncertain, target = (
        DiffChaser(fitness).score(rows, aims) for fitness in ("basic", "uncertainty", "target")
    )
    torch.testing.assert_close(basic, torch.tensor([[0.3, 0.2]]))
    torch.testing.assert_close(uncertain, torch.tensor([[0.5, 0.3]]))  # k = 3
    torch.testing.assert_close(target, torch.tensor([[0.5, 0.0]]))


def test_surprise_by_hand() -> None:
    # three traces (ln p): a and b answer 0, c answers 1
    a, b, c = traces = ONE_HALF.double().log()
    surprise = Surprise(ONE_HALF)
    assert surprise(ONE_HALF).tolist() == [0, 0, 0]
    near = torch.tensor([[0.55, 0.45]])  # answers 0; b is the nearest that does, c the nearest other of b
    expected = (near.double().log() - b).norm() / (b - c).norm()
    assert surprise(near).item() == pytest.approx(expected.item())
    far = torch.tensor([[0.95, 0.05]])
    expected = (far.double().log() - a).norm() / (a - c).norm()
    assert surprise(far).item() == pytest.approx(expected.item())
    assert len(traces) == 3
    with pytest.raises(ValueError, match="two predicted classes"):
        Surprise(ONE_HALF[:2])
    three = torch.tensor([[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]])
    assert Surprise(three)(torch.tensor([[0.1, 0.1, 0.8]])).isinf().all()  # nobody knows the third class


def test_coverage_counts_new_buckets_once_per_search() -> None:
    fitness = Coverage(Surprise(ONE_HALF), buckets=4, upper=2.0)
    rows = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.999999, 0.000001]])  # surprise 0, 0 and far above 2
    score = fitness.start()
    assert score(rows, rows) == 1
    assert score(rows, rows) == 0
    assert fitness.start()(rows, rows) == 1


def test_a_population_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="population of 1"):
        DiverGet(NATURAL, population=1)


def test_an_invalid_setting_covers_nothing_and_is_worse_the_further_it_is(planted: Pair) -> None:
    class Remembering:
        name = "remembering"

        def start(self):  # type: ignore[no-untyped-def]
            self.seen: list[int] = []

            def score(p: torch.Tensor, q: torch.Tensor) -> float:
                self.seen.append(len(p))
                return 0.25

            return score

    relations = Relations((Relation(brightness, ((-0.2, 0.2),)),))  # 0.1 up is 20 dB
    fitness = Remembering()
    search = DiverGet(relations, fitness=fitness)
    hunt = Hunt(planted, seeds([0.3, 0.4]), torch.zeros(2), Psnr(20), budget=10)
    settings = np.array([[1.0, 0.6], [1.0, 0.9], [1.0, 1.0]])
    values = search._evaluate(hunt, [torch.tensor([0, 1])], [settings], fitness.start())[0]
    assert values[0] == -0.25
    assert fitness.seen == [2]
    assert 0 < values[1] < values[2]


def test_an_interruption_between_two_searchers_loses_no_result(planted: Pair) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    images, study = Images(seeds([0.3]), torch.zeros(1)), Study("interrupted", ())
    with pytest.raises(KeyboardInterrupt):
        searched(study, compare_searchers(planted, images, [RandomNoise()], LInf(0.1), 4, tell=interrupt))
    assert [row.searcher for row in study.rows] == ["random noise"]


def test_the_argmax_of_nan_is_no_disagreement() -> None:
    silent = Pair(lambda x: threshold_model(0.9)(x), lambda x: torch.full((len(x), 2), float("nan")))
    found = search_inputs(RandomNoise(), silent, seeds([0.95]), torch.ones(1), LInf(0.01), 5)
    assert not found.success.any()


def test_relations_are_valid_by_the_limit_that_they_run_under(planted: Pair) -> None:
    coverage = Coverage(Surprise(ONE_HALF))
    limits = [s.decibel for s in relation_searchers(3, coverage, decibel=30) if isinstance(s, DiverGet)]
    assert limits == [30] * 5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_down(name: str) -> None:
    make, population = OPTIMIZERS[name]
    optimizer = make(4, 1, 10)
    lowest = []
    for _ in range(12):
        vectors = optimizer.ask()
        assert 0 <= vectors.min() <= vectors.max() <= 1
        values = ((vectors - 0.7) ** 2).sum(1)
        optimizer.tell(values)
        lowest.append(values.min())
    assert min(lowest[-3:]) < 0.3 * lowest[0]
    assert population >= 2


def test_diffchaser_selects_and_keeps_the_lowest_score(planted: Pair) -> None:
    search = DiffChaser(population=8, tournament=30, crossover=0.0, mutation=0.0)
    hunt = Hunt(planted, seeds([0.3]), torch.zeros(1), LInf(0.5), budget=50)
    people = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(1, 8, 1, 8, 8) / 10
    score = torch.tensor([[0.9, 0.8, 0.1, 0.7, 0.6, 0.5, 0.4, 0.3]])
    children = search._breed(people, score, hunt, torch.tensor([0]), torch.Generator().manual_seed(0))
    assert children.shape == (1, 4, 1, 8, 8)
    torch.testing.assert_close(children, torch.full_like(children, 0.2))  # the third, in every place
