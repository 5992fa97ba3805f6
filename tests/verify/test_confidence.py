"""Agreement where the first network is confident, and errors of logits and margins, against enumeration."""

import pytest
import torch

from quantizable.verify import Box, decide_agreement, difference_bounds, mode_errors
from quantizable.verify.confidence import confident_margins
from quantizable.verify.stages import Linear
from tests.verify.test_agreement import box_of, modes
from tests.verify.test_decide import all_inputs


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("confidence", [0.5, 0.6, 0.9])
def test_verdict_equals_enumeration(seed, confidence):
    first, others = modes(seed)
    for radius in (0, 3):
        box = box_of(radius)
        x = all_inputs(box)
        sure = first(x).softmax(1).amax(1) >= confidence
        for name, verdict in decide_agreement(first, others, box, 10, confidence=confidence).items():
            same = (first(x).argmax(1) == others[name](x).argmax(1)) | ~sure
            assert verdict.status != "proved" or same.all()
            if verdict.status == "refuted":
                found = verdict.counterexample
                assert found.first.softmax(0).max() >= confidence
                assert found.first.argmax() != found.second.argmax()


def test_confidence_proves_more():
    """Where the class itself is not certain in the box, the confident part still agrees."""
    found = {"plain": 0, "confident": 0, "nowhere": 0}
    for seed in range(8):
        first, others = modes(seed, (8,))
        box = box_of(25)
        plain = decide_agreement(first, others, box, 1, False)["8"]
        sure = decide_agreement(first, others, box, 1, False, confidence=0.7)["8"]
        found["plain"] += plain.status == "proved"
        found["confident"] += sure.status == "proved"
        found["nowhere"] += sure.low == torch.inf
        if plain.status == "proved":
            assert sure.status == "proved"
    assert found["confident"] > found["plain"]
    assert found["confident"] > found["nowhere"]


def test_a_bound_that_is_no_number_rules_nothing_out():
    """NaN is not below the confidence asked for, so the class stays possible, and nothing is proved."""
    first, _ = modes(0, (8,))
    huge = Linear(torch.full((3, 3), 1e308, dtype=torch.float64), torch.zeros(3).double())
    big = first.then(huge).then(huge)
    [(low, _)] = confident_margins(big, {"8": big}, box_of(9), "interval", 0.7, "real")["8"]
    assert not low > 0


def test_errors_of_logits_and_margins_hold_and_are_those_of_single_calls():
    first, others = modes(1)
    box = Box(
        torch.cat([box_of(2).low, box_of(4, 120.0).low]),
        torch.cat([box_of(2).high, box_of(4, 120.0).high]),
        True,
    )
    found = mode_errors(first, others, box)
    for name, second in others.items():
        errors = found[name]
        for i in range(2):
            x = all_inputs(box[i : i + 1])
            a, b = first(x), second(x)
            d = b - a
            pairs = [y[:, :, None] - y[:, None] for y in (d, a, b)]
            for bounds, values in zip(
                (errors.logits, errors.margins, errors.first, errors.second), (d, *pairs), strict=True
            ):
                assert ((values >= bounds.low[i] - 1e-12) & (values <= bounds.high[i] + 1e-12)).all()
        alone = difference_bounds(first, second, box).output
        torch.testing.assert_close(errors.logits.low, alone.low, rtol=0, atol=1e-9)
        # a margin's error is bounded as one number, at least as tight as both logits' errors together
        apart = errors.logits.high[:, :, None] - errors.logits.low[:, None]
        assert (errors.margins.high <= apart + 1e-9).all()
        assert (errors.margins.high < apart - 1e-6).any()


def test_a_confidence_out_of_range():
    first, others = modes(0)
    for confidence in (0.3, 1.0):
        with pytest.raises(ValueError, match=r"from 0\.5 to below 1"):
            decide_agreement(first, others, box_of(1), confidence=confidence)
