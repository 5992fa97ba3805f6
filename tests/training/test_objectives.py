"""Each loss against the sums of its formula, written out."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from quantizable.training.objectives import (
    Cascade,
    Consistency,
    Recursive,
    TaskOnly,
    kl_divergence,
    mean_squared_error,
    soft_cross_entropy,
)


def softmax(row: Sequence[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def literal_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        for q, p in zip(softmax(s_row, temperature), softmax(t_row, temperature), strict=True):
            total += p * (math.log(p) - math.log(q))
    return temperature**2 * total / len(student)


def literal_soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        for q, p in zip(softmax(s_row, temperature), softmax(t_row, temperature), strict=True):
            total -= p * math.log(q)
    return total / len(student)


def literal_squares(student: Tensor, teacher: Tensor) -> float:
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    return sum((s - t) ** 2 for s, t in pairs) / len(pairs)


@pytest.fixture
def logits() -> list[Tensor]:
    """Outputs of four modes, the highest first: ``[5, 3]`` each."""
    return [torch.randn(5, 3) * 2 for _ in range(4)]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distances(logits: list[Tensor], temperature: float) -> None:
    student, teacher = logits[:2]
    assert kl_divergence(student, teacher, temperature).item() == pytest.approx(
        literal_kl(student, teacher, temperature), rel=1e-5
    )
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(
        literal_soft_cross_entropy(student, teacher, temperature), rel=1e-5
    )
    assert mean_squared_error(student, teacher).item() == pytest.approx(literal_squares(student, teacher))


def test_distances_take_the_mean_over_pixels() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    flat = [z.permute(0, 2, 3, 1).reshape(-1, 3) for z in (student, teacher)]
    assert kl_divergence(student, teacher, 2.0).item() == pytest.approx(literal_kl(*flat, 2.0), rel=1e-5)
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(
        literal_soft_cross_entropy(*flat, 1.0), rel=1e-5
    )


def test_the_gradient_of_kl_does_not_shrink_with_the_temperature() -> None:
    teacher = torch.tensor([[0.1, -0.1, 0.0]])
    norms = []
    for temperature in (5.0, 50.0):
        student = torch.zeros(1, 3, requires_grad=True)
        kl_divergence(student, teacher, temperature).backward()
        assert student.grad is not None
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)  # that is what T^2 is for


def test_the_highest_mode_learns_from_the_task_alone(logits: list[Tensor]) -> None:
    task = torch.tensor(0.7)
    for objective in (TaskOnly(), Consistency(), Recursive(), Cascade()):
        assert objective(logits[0], task, []).item() == pytest.approx(0.7)


def test_lower_modes(logits: list[Tensor]) -> None:
    *teachers, student = logits
    task = torch.tensor(0.7)
    first, last = teachers[0], teachers[-1]
    assert TaskOnly()(student, task, teachers).item() == pytest.approx(0.7)
    assert Consistency(0.3, 0.6, 2.0)(student, task, teachers).item() == pytest.approx(
        0.3 * 0.7 + 0.6 * literal_kl(student, first, 2.0), rel=1e-5
    )
    assert Recursive()(student, task, teachers).item() == pytest.approx(
        literal_soft_cross_entropy(student, last, 1.0), rel=1e-5
    )
    assert Recursive(0.5, 0.5, distance=kl_divergence)(student, task, teachers).item() == pytest.approx(
        0.35 + 0.5 * literal_kl(student, last, 1.0), rel=1e-5
    )
    assert Cascade(0.2)(student, task, teachers).item() == pytest.approx(
        0.7 + 0.2 * sum(literal_squares(student, t) for t in teachers), rel=1e-5
    )


def test_low_precision_logits_are_compared_in_float32(logits: list[Tensor]) -> None:
    student, teacher = (z.bfloat16() for z in logits[:2])
    for distance in (kl_divergence, soft_cross_entropy, mean_squared_error):
        assert distance(student, teacher, 1.0).dtype == torch.float32
