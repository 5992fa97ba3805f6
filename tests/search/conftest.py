"""A small trained-looking network, its data, and a search problem on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.network import QuantizableNetwork
from quantizable.search.budget import parse_budget
from quantizable.search.costs import bops_cost
from quantizable.search.problem import Problem
from quantizable.search.scoring import Scorer
from quantizable.search.space import Space
from quantizable.storage.assignment import add_modes


def make_network(seed: int = 0) -> QuantizableNetwork:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    network = quantizable.quantize(model, [2, 4, 8, 32]).eval()
    inputs = torch.randn(64, 3, 8, 8)
    network.calibrate([inputs])
    network.reestimate_norms([inputs])
    return network


@pytest.fixture
def network() -> QuantizableNetwork:
    return make_network()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_problem(network: QuantizableNetwork, images: Tensor, tmp_path: Path) -> Callable[..., Problem]:
    """A problem whose labels are the float network's own answers."""
    space = Space.of(network)
    add_modes(network, space.modes)
    labels = network(images).argmax(1)
    cost = bops_cost(network, images[:1])
    scorer = Scorer(network, images, labels, tmp_path, norm_inputs=[images])

    def make(budget: str = "4bit", evaluations: int = 30, **options: object) -> Problem:
        return Problem(space, parse_budget(budget, space, cost), scorer, evaluations=evaluations, **options)

    return make
