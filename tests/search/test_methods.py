"""Every search method on problems whose best answer is known by enumeration."""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import quantizable
from quantizable.bits import BitMode
from quantizable.search import ddpg
from quantizable.search.costs import Cost
from quantizable.search.ddpg import Agent
from quantizable.search.front import pareto
from quantizable.search.greedy import damage
from quantizable.search.integer import program_of
from quantizable.search.limits import Budget
from quantizable.search.methods import METHODS
from quantizable.search.problem import Problem, Trial, solve
from quantizable.search.space import Space
from quantizable.storage.assignment import add_modes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer units for the reinforcement learner, fewer descents: the same steps in a fraction of the time."""
    monkeypatch.setattr(ddpg, "HIDDEN", 48)
    monkeypatch.setattr(sys.modules["quantizable.search.fisher"], "STARTS", 2)


SPACE = Space(("a", "b", "c"), {"in": BitMode(8, 8)}, (2, 4, 8), (2, 4, 8))
COST = Cost(
    "bops",
    "operations",
    lambda name, mode: {"in": 1, "a": 1, "b": 2, "c": 4}[name] * mode.weight * mode.activation,
)
HURT = {"a": 4.0, "b": 1.0, "c": 0.2}


class Additive:
    """A made-up scorer whose damages add up, so that the integer program is exact."""

    incremental, measures = None, ()
    clock = staticmethod(time.perf_counter)
    images = torch.randn(2, 4)
    network = quantizable.quantize(
        nn.Sequential(OrderedDict((name, nn.Linear(4, 4)) for name in ("in", "a", "b", "c"))),
        [2, 4, 8],
        first_last="mode",
    ).eval()
    network.calibrate([images])
    add_modes(network, SPACE.modes)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, assignment: Mapping[str, BitMode]) -> dict[str, float]:
        self.calls += 1
        kl = sum(
            HURT.get(n, 0) * (2.0**-m.weight + 0.5 * 2.0**-m.activation - 1.5 * 2.0**-8)
            for n, m in assignment.items()
        )
        return {"accuracy": 1 - kl / 10, "agreement": 1 - kl / 10, "kl": kl, "seconds": 1.0}

    def quick(self, assignment: Mapping[str, BitMode]) -> dict[str, float]:
        score = self(assignment)
        self.calls -= 1  # no evaluation
        return {"kl": score["kl"], "seconds": 0.1}


def additive(budget: float, evaluations: int) -> Problem:
    return Problem(SPACE, Budget.of(COST, budget), Additive(), evaluations=evaluations)  # type: ignore[arg-type]


def optimum(budget: float) -> float:
    problem = additive(budget, 10**6)
    genomes = [g for g in product(range(3), repeat=6) if problem.cost_of(g) <= budget]
    return max(problem.value(g) for g in genomes)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_with_few_evaluations_every_method_has_the_baseline_at_least(name: str, evaluations: int) -> None:
    outcome = solve(name, METHODS[name], additive(176.0, evaluations))
    assert outcome.best.cost <= 176.0
    assert len(outcome.trials) <= evaluations
    uniform = Trial((1,) * 6, {}, Additive()(SPACE.assignment((1,) * 6)))  # 4 bits cost 8 * 8 + 7 * 16 = 176
    assert outcome.best.score["accuracy"] >= uniform.score["accuracy"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_costs_that_do_not_fall_with_the_bits(name: str) -> None:
    """As measured latencies: here 2 bits take longest, so that only uniform 8 bits fit."""
    slow = Cost("latency", "ms", lambda _, mode: 1.0 + (mode.weight == 2) + (mode.activation < 8))
    problem = Problem(SPACE, Budget.of(slow, 4.0), Additive(), evaluations=12)  # type: ignore[arg-type]
    outcome = solve(name, METHODS[name], problem)
    assert outcome.best.cost == 4.0
    assert SPACE.layer_modes(outcome.best.genome)["a"].activation == 8


@pytest.mark.parametrize("budget", [120.0, 176.0, 250.0])
def test_the_integer_program_finds_the_optimum_of_additive_damages(budget: float) -> None:
    outcome = solve("integer", METHODS["integer"], additive(budget, 40))
    assert outcome.best is not None
    assert outcome.best.score["accuracy"] == pytest.approx(optimum(budget), abs=1e-6)


def test_the_integer_program_lists_assignments_from_good_to_bad() -> None:
    problem = additive(176.0, 40)
    rows = damage(problem)
    program, found = program_of(problem, rows), []
    for _ in range(6):
        chosen = program.solve()
        assert chosen is not None
        found.append(sum(rows[i][index] for i, index in enumerate(SPACE.of_modes(chosen))))
        program.exclude(chosen)
    assert found == pytest.approx(sorted(found), abs=1e-5)
    everything = [g for g in product(range(3), repeat=6) if problem.cost_of(g) <= 176.0]
    best_six = sorted(sum(rows[i][index] for i, index in enumerate(g)) for g in everything)[:6]
    assert found == pytest.approx(best_six, abs=1e-5)


def test_damages_are_measured_one_decision_at_a_time() -> None:
    rows = damage(additive(176.0, 40))
    for i, row in enumerate(rows):
        factor = HURT["abc"[i // 2]] * (1.0, 0.5)[i % 2]
        assert row == pytest.approx([factor * (2.0**-bits - 2.0**-8) for bits in (2, 4, 8)])


def test_damages_that_could_not_be_measured_are_never_below_a_higher_widths() -> None:
    problem = additive(176.0, 8)
    rows = damage(problem)
    assert len(problem.trials) <= 6
    assert all((np.diff(row) <= 0).all() and np.isfinite(row).all() for row in rows)


@pytest.mark.parametrize("method", ["greedy", "integer", "fisher", "evolution", "reinforcement"])
def test_searches_beat_uniform_bits_where_layers_differ(method: str) -> None:
    uniform = solve("uniform", METHODS["uniform"], additive(176.0, 60)).best
    best = solve(method, METHODS[method], additive(176.0, 60)).best
    assert uniform is not None
    assert best is not None
    assert best.cost <= 176.0
    assert best.score["accuracy"] > uniform.score["accuracy"]


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("evaluations", [1, 17])
def test_no_method_takes_more_evaluations_than_allowed(method: str, evaluations: int) -> None:
    problem = additive(176.0, evaluations)
    outcome = solve(method, METHODS[method], problem)
    assert problem.scorer.calls == len(outcome.trials) <= evaluations  # type: ignore[attr-defined]
    assert len({t.genome for t in outcome.trials}) == len(outcome.trials)
    assert outcome.seconds >= len(outcome.trials)  # one second each, as the scorer says


@pytest.mark.parametrize("method", ["integer", "fisher", "evolution"])
def test_a_method_ends_when_its_time_is_over(method: str) -> None:
    """Each evaluation counts for the second that it took when it was made."""
    problem = additive(200.0, 1000)
    problem.scorer.clock = lambda: 0.0  # type: ignore[method-assign]
    problem.seconds = 10.0
    outcome = solve(method, METHODS[method], problem)
    assert outcome.seconds == pytest.approx(len(outcome.trials) + 0.1 * outcome.looks)
    assert 10.0 - 1e-9 <= outcome.seconds < 11.0
    assert problem.holds(outcome.best.genome)


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_seed_gives_the_same_search(method: str) -> None:
    runs = [solve(method, METHODS[method], additive(200.0, 25)) for _ in range(2)]
    assert [t.genome for t in runs[0].trials] == [t.genome for t in runs[1].trials]


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_run_on_a_network(method: str, make_problem: Callable[..., Problem]) -> None:
    problem = make_problem("4bit", evaluations=24)
    outcome = solve(method, METHODS[method], problem)
    assert outcome.best is not None
    assert problem.holds(outcome.best.genome)
    assert all(t.cost == problem.cost_of(t.genome) for t in outcome.trials)
    assert problem.scorer.network.bits == 32


def test_bad_problems_are_refused(make_problem: Callable[..., Problem]) -> None:
    with pytest.raises(
        ValueError,
        match="objective 'speed' is unknown; choose from accuracy, agreement, kl, acr, ",
    ):
        make_problem(objective="speed")
    with pytest.raises(ValueError, match="needs certification"):
        make_problem(objective="acr")
    with pytest.raises(ValueError, match="evaluations is 0"):
        make_problem(evaluations=0)
    with pytest.raises(ValueError, match="smallest assignment needs 92"):
        additive(91.0, 5)


def trial(cost: float, accuracy: float) -> Trial:
    return Trial((int(cost),), {"bops": cost}, {"accuracy": accuracy})


def test_the_front_by_hand() -> None:
    trials = [trial(3, 0.5), trial(1, 0.2), trial(2, 0.5), trial(4, 0.4), trial(5, 0.9), trial(1, 0.1)]
    assert [(t.cost, t.score["accuracy"]) for t in pareto(trials, "accuracy")] == [
        (1, 0.2),
        (2, 0.5),
        (5, 0.9),
    ]


def test_the_agent_learns_which_action_pays() -> None:
    agent = Agent(2, seed=0)
    state = torch.tensor([0.3, 0.7])
    for _ in range(300):
        action = agent.random_action()
        agent.remember((state, action, -((action - 0.8) ** 2), state, True))
    for _ in range(600):
        agent.learn()
    assert agent.action(state, 0.0) == pytest.approx(0.8, abs=0.15)
    noisy = [agent.action(state, 0.5) for _ in range(200)]
    assert 0 <= min(noisy) < max(noisy) <= 1
