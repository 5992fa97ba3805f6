"""What each mode is taught: by the labels, by the modes above it, or both.

An objective is called once for each visited mode, from the highest to the lowest, with the task's loss on the
mode's output and the detached outputs of the modes visited before it (highest first; in front of them that of
a float network, where one teaches). It knows no labels and no task, so that the same schemes train
classifiers, regressors and segmenters: only ``distance`` has to fit the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor, float], Tensor]


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(softmax(teacher/T) || softmax(student/T))``, mean over all but the class axis (1).

    Args:
        student, teacher: logits ``[B, C, ...]``.
        temperature: T > 0 (Hinton et al. 2015, arXiv:1503.02531).
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    per_class = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return per_class.sum(1).mean() * temperature**2


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``-sum softmax(teacher/T) log softmax(student/T)``, mean over all but the class axis (1)."""
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    return -(F.softmax(teacher.float() / temperature, dim=1) * log_student).sum(1).mean()


def mean_squared_error(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean squared difference of the outputs; for regression, and for logits in CascadeNets."""
    return F.mse_loss(student.float(), teacher.float())


class Objective(Protocol):
    """The loss of one visited mode."""

    def __call__(self, output: Tensor, task_loss: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        """A scalar; ``teachers`` are the outputs of the higher modes, the highest first, without gradient."""
        ...


@dataclass(frozen=True)
class TaskOnly:
    """The task's loss in every mode (AdaBits, Jin et al., CVPR 2020, eq. 2)."""

    def __call__(self, output: Tensor, task_loss: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        return task_loss


@dataclass(frozen=True)
class Consistency:
    """``alpha * task + beta * distance`` to the highest mode; the highest learns from the task alone.

    With a float network as the teacher it is the highest, and all modes learn from it.

    The combinational loss of quantizable networks (Du et al., BMVC 2020); their abstract gives no formula,
    this is ours:
    ``L = CE(z_32, y) + sum_k [alpha CE(z_k, y) + beta T^2 KL(z_32 || z_k)]``.
    """

    alpha: float = 1.0
    beta: float = 1.0
    temperature: float = 1.0
    distance: Distance = kl_divergence

    def __call__(self, output: Tensor, task_loss: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        if not teachers:
            return task_loss
        return self.alpha * task_loss + self.beta * self.distance(output, teachers[0], self.temperature)


@dataclass(frozen=True)
class Recursive:
    """``alpha * task + beta * distance`` to the **next higher** mode.

    ``alpha=0, beta=1`` with soft cross-entropy: Any-Precision DNN (Yu et al., AAAI 2021, sec. 3.3). Halves:
    the sandwich of EQ-Net (Xu et al., ICCV 2023).
    """

    alpha: float = 0.0
    beta: float = 1.0
    temperature: float = 1.0
    distance: Distance = soft_cross_entropy

    def __call__(self, output: Tensor, task_loss: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        if not teachers:
            return task_loss
        return self.alpha * task_loss + self.beta * self.distance(output, teachers[-1], self.temperature)


@dataclass(frozen=True)
class Cascade:
    """``task + beta * sum of distances`` to **all** higher modes (InstantNet, Fu et al., DAC 2021, eq. 1).

    The default of ``beta`` is ours: squared distances of logits are large where 2 bits start from float
    weights, and a ResNet-20 with 1 diverged within its first steps (docs/results.md).
    """

    beta: float = 0.1
    distance: Distance = mean_squared_error

    def __call__(self, output: Tensor, task_loss: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        return task_loss + sum(
            (self.beta * self.distance(output, t, 1.0) for t in teachers), task_loss.new_zeros(())
        )
