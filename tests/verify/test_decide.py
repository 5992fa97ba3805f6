"""Verdicts against exhaustive enumeration of small whole-number boxes, and published queries."""

import itertools
import sys
import time

import pytest
import torch

from quantizable.verify import Box, Query, decide, decide_all, difference_bounds
from quantizable.verify.milp import PairProgram
from tests.verify.conftest import random_pair

decide_module = sys.modules["quantizable.verify.decide"]  # the package's name for it is the function
pytest.importorskip("highspy", reason="the verify extra is not installed")


def all_inputs(box):
    ranges = [range(int(a), int(b) + 1) for a, b in zip(box.low[0], box.high[0], strict=True)]
    return torch.tensor(list(itertools.product(*ranges)), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_verdict_equals_enumeration(seed):
    first, second = random_pair(seed, sizes=(3, 5, 4, 2), bits=4)
    box = Box.around(torch.full((1, 3), 120.0), 4, 0, 255, integer=True)
    x = all_inputs(box)
    truth = (second(x) - first(x))[:, 0]
    largest = float(truth.abs().max())
    above = decide(first, second, box, 0, largest * 1.001 + 1e-4, time_limit=3)
    below = decide(first, second, box, 0, largest * 0.999, time_limit=3)
    assert above.status != "refuted"
    assert below.status != "proved"
    assert above.low <= truth.min() <= truth.max() <= above.high
    # Eps a grid step away is far enough for the program to decide.
    assert decide(first, second, box, 0, largest + 0.5).status == "proved"
    assert decide(first, second, box, 0, largest * 0.7).status == "refuted"


def test_program_encloses_every_input():
    """The relaxed program may not exclude what the networks do: its optimum is at least theirs."""
    for seed in range(3):
        first, second = random_pair(seed, sizes=(3, 4, 3, 2), bits=3)
        box = Box.around(torch.full((1, 3), 100.0), 5, 0, 255, integer=True)
        x = all_inputs(box)
        bounds = difference_bounds(first, second, box)
        for sign in (1.0, -1.0):
            weights = torch.tensor([sign, 0.0], dtype=torch.float64)
            best = float(((second(x) - first(x)) @ weights).max())
            hidden = [(1, i, n) for i in (2, 4) for n in range(3)]
            for exact in (set(), set(hidden)):
                program = PairProgram(first, second, box, bounds, exact, weights)
                answer, _ = program.reach(best - 1e-9, 30)
                assert answer == "feasible"
                program = PairProgram(first, second, box, bounds, exact, weights)
                limit = float(bounds.output.magnitude[0, 0])
                assert program.reach(limit + 1e-3, 30)[0] == "infeasible"


def test_counterexample_is_replayed_and_legal():
    first, second = random_pair(2)
    box = Box.around(torch.full((1, 4), 200.0), 10, 0, 255, integer=True)
    x = box.center
    eps = 0.9 * float((second(x) - first(x)).abs()[0, 1])
    verdict = decide(first, second, box, 1, eps)
    assert verdict.status == "refuted"
    found = verdict.counterexample
    assert box.contains(found.x[None]).all()
    difference = second(found.x[None]) - first(found.x[None])
    assert abs(difference[0, 1].item()) >= eps
    assert torch.equal(found.second - found.first, difference[0])


@pytest.mark.parametrize("wrong", ["above", "below"])
def test_what_a_proof_leaves_open_is_searched_for_the_rest_of_the_time(monkeypatch, wrong):
    """Also behind a question without an answer: the other one may have a counterexample."""
    first, second = random_pair(1, sizes=(3, 5, 4, 2), bits=4)
    box = Box.around(torch.full((1, 3), 120.0), 4, 0, 255, integer=True)
    truth = (second(all_inputs(box)) - first(all_inputs(box)))[:, 0]
    if (wrong == "above") != bool(truth.max() > -truth.min()):
        first, second, truth = second, first, -truth
    eps = 0.99 * float(truth.abs().max())
    monkeypatch.setattr(decide_module, "by_program", lambda *_: (time.sleep(0.5), ("unknown", "", None))[1])
    long = decide_module.search

    def short(*args, deadline=None, **options):
        limits = {"steps": 0} if deadline is None else {"deadline": deadline}
        return long(*args[:4], box.low, args[5], **options, **limits)

    monkeypatch.setattr(decide_module, "search", short)
    verdict = decide(first, second, box, 0, eps, time_limit=10)
    assert (verdict.status, verdict.method) == ("refuted", "search")
    assert abs(verdict.counterexample.value) >= eps


@pytest.mark.slow  # each process imports torch
def test_parallel_processes_give_the_same_verdicts():
    first, second = random_pair(4)
    box = Box.around(torch.full((1, 4), 128.0), 3, 0, 255, integer=True)
    queries = [Query(f"eps {eps}", first, second, box, 0, eps, 20) for eps in (0.01, 50.0)]
    found = {query.name: verdict.status for query, verdict in decide_all(queries, processes=2)}
    alone = {q.name: decide(first, second, box, 0, q.eps).status for q in queries}
    assert found == alone


@pytest.mark.parametrize(
    ("net", "bits", "eps", "image", "status"),
    [
        ("p1", 8, 1.0, 7098, "refuted"),
        ("p1", 8, 1.0, 3236, "proved"),
        ("p1", 6, 1.0, 3825, "proved"),  # by MILP
        ("p1", 4, 1.0, 4544, "refuted"),
        ("p2", 10, 2.0, 7389, "refuted"),
    ],
)
def test_published_verdicts(net, bits, eps, image, status, benchmark_pair, published, mnist):
    listed = {
        (r["net"], int(r["weight_bits"]), float(r["error_bound"]), int(r["mnist_test_index"])): r["verdict"]
        for r in published("published_verdicts.csv")
    }
    assert listed[net, bits, eps, image] == status
    first, second = benchmark_pair(net, bits)
    x = mnist[[image]]
    box = Box.around(x, 3, 0, 255, integer=True)
    assert decide(first, second, box, int(first(x).argmax()), eps).status == status


def test_bad_questions():
    first, second = random_pair(0)
    box = Box.around(torch.full((1, 4), 128.0), 3)
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            decide(first, second, box, 0, eps)
    with pytest.raises(ValueError, match="outputs 0 to 2"):
        decide(first, second, box, 3, 1.0)
    with pytest.raises(ValueError, match="one box, not 2"):
        decide(first, second, Box.around(torch.zeros(2, 4), 3), 0, 1.0)
