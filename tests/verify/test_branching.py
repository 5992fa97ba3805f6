"""Branch and bound against enumeration, and against the program that it calls at its leaves."""

import time
from dataclasses import replace
from functools import cache

import pytest
import torch

from quantizable.verify import Box, branching, chain, decide
from quantizable.verify.branching import Split, Tree
from quantizable.verify.stages import Activation, Linear
from tests.verify import test_attack as layers
from tests.verify.conftest import random_pair
from tests.verify.test_decide import all_inputs


def box_of(radius, center=100.0):
    return Box.around(torch.full((1, 3), center), radius, 0, 255, integer=True)


@cache
def pair_of(seed, bits, radius):
    """Two networks, a box, and the largest difference of output 0 in it, by enumeration."""
    first, second = random_pair(seed, sizes=(3, 6, 5, 2), bits=bits)
    box = box_of(radius)
    x = all_inputs(box)
    return first, second, box, float((second(x) - first(x))[:, 0].max())


def asked(first, second, box, target, seconds=20.0, use_milp=False):
    weights = torch.zeros(first.shapes[-1].numel(), dtype=torch.float64)
    weights[0] = 1.0
    tree = Tree(first, second, box, weights, target)
    return tree.search(time.perf_counter() + seconds, use_milp)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_verdict_equals_enumeration(seed, bits):
    """Just above what the box attains is never refuted; what it attains is never proved."""
    first, second, box, attained = pair_of(seed, bits, 7)
    assert asked(first, second, box, attained, 3).status != "proved"
    above = asked(first, second, box, attained + 0.05, 3, use_milp=True)
    assert above.status != "refuted"
    found = asked(first, second, box, attained - 0.02, 3)
    if found.status == "refuted":
        assert found.found.value >= attained - 0.02
        assert box.contains(found.found.x[None]).all()


@pytest.mark.parametrize("seed", [4, 5])
def test_parts_prove_what_the_whole_does_not(seed):
    first, second, box, attained = pair_of(seed, 2, 25)
    target = attained + 0.01
    tree = Tree(first, second, box, torch.tensor([1.0, 0.0]).double(), target)
    assert float(tree.bound([()]).upper[0]) >= target
    outcome = tree.search(time.perf_counter() + 20, use_milp=False)
    assert outcome.status == "proved"
    assert outcome.parts > 1


def test_both_sides_of_a_split_hold_their_inputs():
    """Of every input, the part that it belongs to bounds its values; the other part need not."""
    first, second = random_pair(5, sizes=(3, 6, 5, 2), bits=4)
    box = box_of(25)
    tree = Tree(first, second, box, torch.tensor([1.0, 0.0]).double(), 9.0)
    x = all_inputs(box)[::31]
    values = [graph.values(x) for graph in (first, second)]
    splits = tree.bound([()]).splits
    for _ in range(6):
        which, node, neuron, at = splits[-1]
        both = [(Split(which, node, neuron, at, above),) for above in (False, True)]
        known = tree.bound(both)
        reads = values[which][(first, second)[which].nodes[node].inputs[0]].flatten(1)[:, neuron]
        for i, inside in enumerate((reads < at, reads > at)):
            for own, network in ((known.bounds.first, values[0]), (known.bounds.second, values[1])):
                for bounds, value in zip(own, network, strict=True):
                    chosen = value[inside]
                    assert ((chosen >= bounds.low[i] - 1e-12) & (chosen <= bounds.high[i] + 1e-12)).all()
        if known.splits[0] is None:
            break
        splits.append(known.splits[0])


def test_at_a_tie_both_codes_are_looked_at():
    """The only input lies on the tie: rounded up it attains 0.5, and no part may forget that."""
    stages = [
        Linear(torch.eye(1).double(), torch.zeros(1).double()),
        Activation(0.5, 0.0, 7.5, half_even=False),
    ]
    end = Linear(torch.eye(1).double(), torch.zeros(1).double())
    first = chain([stages[0], Activation(), replace(end, weight=end.weight * 0)], [1])
    second = chain([*stages, end], [1])
    for low, high in ((0.25, 0.25), (0.1, 0.4), (0.1, 0.25)):
        box = Box(torch.tensor([[low]]), torch.tensor([[high]]))
        assert asked(first, second, box, 0.5).status != "proved"
        assert asked(first, second, box, 0.51).status == "proved"


@pytest.mark.parametrize("seed", [4, 5])
def test_leaves_go_to_the_program(seed):
    first, second, box, attained = pair_of(seed, 2, 25)
    target = attained + 0.01
    outcome = asked(first, second, box, target, use_milp=True)
    assert outcome.status == "proved"
    assert outcome.leaves >= 1
    verdict = decide(first, second, box, 0, max(target, 0.01), 10, branch=True)
    assert verdict.status != "refuted" or verdict.counterexample.value >= target


def test_layers_that_the_program_lacks_are_split_too():
    first, others = layers.graphs_with("max pooling")
    box = Box.around(layers.center(), 0.02)
    weights = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    tree = Tree(first, others["4"], box, weights, 1e9)
    known = tree.bound([()])
    upper = float(known.upper[0])
    parts = tree.bound([(Split(*known.splits[0], above),) for above in (False, True)])
    assert float(parts.upper.max()) <= upper + 1e-9
    outcome = asked(first, others["4"], box, upper * 0.999, 3)
    assert outcome.status in ("proved", "unknown", "refuted")
    assert outcome.parts > 1


def test_a_part_that_is_forgotten_is_caught(monkeypatch):
    """Only the parts below their splits are pushed: something that the box attains is then 'proved'."""
    push = branching.heapq.heappush

    class OneSided:
        heappop = staticmethod(branching.heapq.heappop)

        @staticmethod
        def heappush(heap, item):
            if not item[1][-1].above:
                push(heap, item)

    monkeypatch.setattr(branching, "heapq", OneSided)
    false_proofs = 0
    for seed in (1, 4, 5):
        first, second, box, attained = pair_of(seed, 4, 25)
        false_proofs += asked(first, second, box, attained, 2).status == "proved"
    assert false_proofs > 0


def test_a_part_that_is_cut_too_far_is_caught(monkeypatch):
    """Relaxations that end far beside a tie say too little of what lies between."""
    monkeypatch.setattr(branching.Tree, "_limits", too_far(branching.Tree._limits))
    false_proofs = 0
    for seed in (1, 4, 5):
        first, second, box, attained = pair_of(seed, 4, 25)
        false_proofs += asked(first, second, box, attained, 2).status == "proved"
    assert false_proofs > 0


def too_far(limits):
    def wrong(tree, which, batch):
        found = limits(tree, which, batch)
        return {node: type(x)(x.low + 0.2, x.high - 0.2) for node, x in found.items()}

    return wrong
