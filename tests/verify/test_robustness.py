"""The class of one network over a box, against enumeration."""

import pytest
import torch

from quantizable.verify import Box
from quantizable.verify.robustness import decide_robustness, margin_layer
from tests.verify.conftest import random_pair
from tests.verify.test_decide import all_inputs


@pytest.mark.parametrize("seed", range(6))
def test_verdict_equals_enumeration(seed):
    _, network = random_pair(seed, sizes=(3, 6, 3), bits=4)
    for radius in (1, 6):
        box = Box.around(torch.full((1, 3), 90.0), radius, 0, 255, integer=True)
        outputs = network(all_inputs(box))
        label = int(network(box.center).argmax())
        margins = margin_layer(3, label).multiply(outputs)
        verdict = decide_robustness(network, box, label)
        if verdict.status == "proved":
            assert (margins > 0).all()
        elif verdict.status == "refuted":
            x = verdict.counterexample.x[None]
            assert box.contains(x).all()
            assert margin_layer(3, label).multiply(network(x)).min() <= 0
            assert margins.min() <= 0
        assert verdict.low <= margins.min()


def test_wrong_label_is_refuted_and_a_missing_one_refused():
    _, network = random_pair(1, sizes=(3, 6, 3))
    box = Box.around(torch.full((1, 3), 90.0), 1, 0, 255, integer=True)
    label = int(network(box.center).argmax())
    assert decide_robustness(network, box, (label + 1) % 3).status == "refuted"
    with pytest.raises(ValueError, match="label 3 does not exist"):
        decide_robustness(network, box, 3)
