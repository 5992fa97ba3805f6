"""Boxes: what they hold, and one clear error for each bad one."""

import pytest
import torch

from quantizable.verify import Box, chain
from quantizable.verify.stages import Linear


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([[0.0, 2.0]], [[1.0, 1.0]], r"inverted: low 2 > high 1 at index \(0, 1\)"),
        ([[0.0]], [[0.0, 1.0]], "differ in shape"),
        ([[float("nan")]], [[1.0]], "finite"),
        ([[0.0]], [[float("inf")]], "finite"),
        ([[]], [[]], "empty"),
        ([0.0], [1.0], "empty"),
    ],
)
def test_bad_boxes(low, high, message):
    with pytest.raises(ValueError, match=message):
        Box(torch.tensor(low), torch.tensor(high))


def test_whole_numbers():
    with pytest.raises(ValueError, match="whole limits"):
        Box(torch.tensor([[0.5]]), torch.tensor([[1.0]]), integer=True)
    box = Box.around(torch.tensor([[1.0, 254.0]]), 3, 0, 255, integer=True)
    assert box.low.tolist() == [[0.0, 251.0]]
    assert box.high.tolist() == [[4.0, 255.0]]
    assert box.nearest(torch.tensor([[-7.0, 251.6]])).tolist() == [[0.0, 252.0]]
    assert box.contains(torch.tensor([[2.0, 252.0], [2.5, 252.0], [5.0, 252.0]])).tolist() == [
        True,
        False,
        False,
    ]


def test_negative_radius():
    with pytest.raises(ValueError, match="radius -1"):
        Box.around(torch.zeros(1, 2), -1)


def test_nan_weights():
    weight = torch.tensor([[1.0, float("nan")]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"stage 0 \(Linear\) has a weight that is NaN"):
        chain([Linear(weight, torch.zeros(1, dtype=torch.float64))], [2])
