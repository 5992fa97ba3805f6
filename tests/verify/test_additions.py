"""Bounds of networks whose residual additions are on grids: they know the grids, and are sound."""

import torch

from quantizable.verify import Box, mode_difference_bounds
from quantizable.verify.stages import Activation, Add
from quantizable.verify.trace import graph_of
from tests.small_residual import SIZE, residual_network
from tests.verify.conftest import sample


def test_stages_compute_what_the_network_computes_and_modes_share_a_structure() -> None:
    network, x = residual_network(first_last="mode"), torch.randn(8, *SIZE)
    kinds = []
    for mode in network.modes:
        graph = graph_of(network, SIZE, mode)
        kinds.append([type(node.stage) for node in graph.nodes])
        with network.at_bits(mode), torch.no_grad():
            assert torch.allclose(graph(x.double()), network(x).double(), atol=1e-5)
    assert all(found == kinds[0] for found in kinds)
    assert kinds[0].count(Add) == 2


def test_the_grids_and_ranges_of_the_operands_are_stages() -> None:
    network = residual_network()
    operands = network.additions()["blocks.1.additions"].operands
    stages = [node.stage for node in graph_of(network, SIZE, 4).nodes if isinstance(node.stage, Activation)]
    steps = {operands[name].level(4).scale.item() for name in ("input", "0_right")}
    assert steps <= {stage.step for stage in stages}
    scale = operands["0_left_range"].level(4).scale.item()
    assert (0, -128 * scale, 127 * scale) in {(stage.step, stage.low, stage.high) for stage in stages}


def test_sampled_inputs_stay_inside_the_difference_bounds() -> None:
    network, size = residual_network((2, 8, 32)), (3, 3, 3)
    first = graph_of(network, size, 32)
    box = Box.around(torch.rand(1, *size), 0.02, 0, 1)
    for mode in (2, 8):
        second = graph_of(network, size, mode)
        found = mode_difference_bounds(first, {"mode": second}, box)["mode"]
        for x in sample(box, 40):
            for i, (a, b) in enumerate(zip(first.values(x), second.values(x), strict=True)):
                assert found.difference[i].contains(b - a, 1e-12).all()
