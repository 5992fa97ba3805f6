"""Bounds of an execution hold for every run of it: sums in any order, ties that fall either way."""

import pytest
import torch
from torch import nn

import quantizable
from quantizable.deploy import Session
from quantizable.deploy.export import export_onnx
from quantizable.deploy.lowering import lower
from quantizable.verify import (
    EXECUTIONS,
    Box,
    chain,
    decide,
    decide_agreement,
    decide_robustness,
    difference_bounds,
    reach,
)
from quantizable.verify.graph import apply
from quantizable.verify.stages import Activation, Conv2d, Linear, Scale
from quantizable.verify.trace import graph_of
from tests.verify import test_attack as layers


def in_float32(graph, x, draw):
    """All values of one run in float32, each sum in an order of its own."""
    values = [x.float()]
    for node in graph.nodes:
        stage, inputs = node.stage, [values[i] for i in node.inputs]
        if isinstance(stage, Linear) or (isinstance(stage, Conv2d) and stage.groups == 1):
            order = torch.randperm(stage.weight.shape[1], generator=draw)
            total = torch.zeros(())
            for part in order.split(max(1, len(order) // 3)):
                some = stage.weight[:, part].float()
                kind = Linear(some, stage.bias) if isinstance(stage, Linear) else Conv2d(
                    some, stage.bias, stage.stride, stage.padding, stage.dilation
                )  # fmt: skip
                axis = -1 if isinstance(stage, Linear) else 1
                total = total + kind.multiply(inputs[0].index_select(axis, part))
            values.append(total + stage.offset.float())
        elif isinstance(stage, Conv2d):
            kind = Conv2d(
                stage.weight.float(), stage.bias, stage.stride, stage.padding, stage.dilation, stage.groups
            )
            values.append(kind.multiply(inputs[0]) + stage.offset.float())
        elif isinstance(stage, Scale):
            values.append(inputs[0] * stage.factor.float() + stage.offset.float())
        elif isinstance(stage, Activation) and stage.step > 0:
            code = inputs[0] / torch.tensor(stage.step).float() + stage.zero_point
            low, high = (round(limit / stage.step + stage.zero_point) for limit in (stage.low, stage.high))
            code = code.round().clamp(low, high)
            values.append((code - stage.zero_point) * torch.tensor(stage.step).float())
        else:
            values.append(apply(stage, *inputs))
    return values


def escapes(graph, box, runs=3):
    """How many values of runs in float32 lie outside of their bounds."""
    known = reach.Reach(graph, box, "joint", "float32").finish()
    draw, outside = torch.Generator().manual_seed(0), 0
    for _ in range(runs):
        x = box.low + (box.high - box.low) * torch.rand(box.low.shape, generator=draw, dtype=torch.float64)
        for node, bounds, value in zip(
            [None, *graph.nodes], known.bounds, in_float32(graph, box.nearest(x), draw), strict=True
        ):
            grid = node is not None and isinstance(node.stage, Activation) and node.stage.step > 0
            # the values of codes are counted as exact, and their rounding where they are read
            outside += int((~bounds.contains(value.double(), 1e-6 if grid or node is None else 0.0)).sum())
    return outside


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_no_float32_run_leaves_its_bounds(layer):
    first, others = layers.graphs_with(layer)
    x = layers.center().float().double()
    for graph in (first, others["4"]):
        for radius in (0.0, 0.05):
            assert escapes(graph, Box.around(x, radius)) == 0


@pytest.mark.parametrize("layer", layers.LAYERS)
def test_errors_that_are_forgotten_are_caught(layer, monkeypatch):
    monkeypatch.setattr(reach, "errors_after", lambda *given: None)
    first, _ = layers.graphs_with(layer)
    x = layers.center().float().double()
    assert escapes(first, Box.around(x, 0.0)) > 0


def on_a_tie():
    """Ten products of 0.1 and 0.25 sum up to just above 0.25, a tie of a grid of 0.5, in float32 to it."""
    weight = torch.full((1, 10), float(torch.tensor(0.1)), dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    first = [Linear(weight, zero), Activation(), Linear(torch.ones(1, 1).double(), zero)]
    second = [Linear(weight, zero), Activation(0.5, 0.0, 7.5), Linear(torch.ones(1, 1).double(), zero)]
    x = torch.full((1, 10), 0.25, dtype=torch.float64)
    return chain(first, [10]), chain(second, [10]), Box(x, x)


def test_a_tie_falls_either_way():
    """The real value rounds up. A run whose sum is one unit less rounds to even, so down."""
    first, second, box = on_a_tie()
    assert float(second(box.center)) == 0.5
    real = difference_bounds(first, second, box, "joint").second[2]
    assert real.low.item() == real.high.item() == 0.5
    run = torch.tensor(0.25).float()
    assert float(second.nodes[1].stage(run)) == 0.0
    for execution in ("float32", "integers"):
        both = difference_bounds(first, second, box, "joint", execution).second[2]
        assert (both.low.item(), both.high.item()) == (0.0, 0.5)


def test_what_only_real_numbers_show_refutes_no_run():
    """At the tie the difference is 0.25 in real numbers, and may be -0.25 in a run."""
    first, second, box = on_a_tie()
    assert decide(first, second, box, 0, 0.2).status == "refuted"
    assert decide(first, second, box, 0, 0.3).status == "proved"
    for execution in ("float32", "integers"):
        assert decide(first, second, box, 0, 0.3, execution=execution).status == "proved"
        verdict = decide(first, second, box, 0, 0.2499999, execution=execution)
        assert (verdict.status, verdict.counterexample) == ("unknown", None)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    model(torch.rand(16, 1, 6, 6))
    network = quantizable.quantize(model.eval(), [4, 8, 32], "lsq")
    network.calibrate([torch.rand(16, 1, 6, 6)])
    return network.eval(), torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_the_exported_integers_stay_inside(small, tmp_path):
    network, x = small
    first, second = (graph_of(network, (1, 6, 6), mode) for mode in (32, 4))
    path = tmp_path / "small.onnx"
    export_onnx(network, path, 4, input_size=(1, 6, 6))
    box = Box.around(x, 0.0)
    found, real = (
        difference_bounds(first, second, box, "joint", execution).second[-1]
        for execution in ("integers", "real")
    )
    # In a Session: ONNX Runtime by itself would saturate on processors without VNNI.
    engine = torch.from_numpy(Session(path)(x))
    for run in (lower(network, 4, x[:1]).model(x), engine):
        assert found.contains(run.detach().double()).all()
        assert not real.contains(run.detach().double()).all()


def test_norms_are_folded_or_not():
    """A norm whose mean is large: the folded bias is small, the errors of an unfolded one are not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    ).eval()
    model[1].running_mean.fill_(1000.0)
    model[0].bias.data.fill_(1000.0)
    graph, x = graph_of(model, (1, 4, 4)), torch.rand(8, 1, 4, 4)
    known = reach.Reach(graph, Box.around(x, 0.0), "joint", "float32").finish().bounds
    assert known[-1].contains(model(x).detach().double()).all()
    folded = graph.nodes[0].stage
    small = replaced(graph, 0, Conv2d(folded.weight, folded.bias))
    forgotten = reach.Reach(small, Box.around(x, 0.0), "joint", "float32").finish().bounds
    assert not forgotten[-1].contains(model(x).detach().double()).all()


def replaced(graph, index, stage):
    nodes = list(graph.nodes)
    nodes[index] = type(nodes[index])(stage, nodes[index].inputs)
    return type(graph)(nodes, graph.input_shape)


def test_agreement_and_robustness_of_runs(small):
    network, x = small
    graphs = {mode: graph_of(network, (1, 6, 6), mode) for mode in (32, 8)}
    box = Box.around(x[:1], 0.0)
    lows = []
    for execution in EXECUTIONS:
        verdict = decide_agreement(graphs[32], {"8": graphs[8]}, box, 1, False, execution=execution)["8"]
        label = int(graphs[8](box.center).argmax())
        robust = decide_robustness(graphs[8], box, label, 1, False, execution=execution)
        lows.append((verdict.low, robust.low))
    assert lows[0] > lows[1]
    with pytest.raises(ValueError, match="allowed are real, float32, integers"):
        decide_agreement(graphs[32], {"8": graphs[8]}, box, execution="float16")
