"""An attack on the bounds of every layer: no input of a box may leave them, in any mode.

Tried are random inputs and corners, gradient ascent on the difference, inputs on ties of the first quantizer
and on the border of its clamp, and boxes of zero width. A rule that is made wrong on purpose must be caught,
for each layer, or the attack is worth nothing.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantizable
from quantizable.verify import (
    Box,
    curve_bounds,
    decide,
    mode_difference_bounds,
    pool_bounds,
    propagation,
    reach,
)
from quantizable.verify.curves import FUNCTIONS, Curve
from quantizable.verify.rearranging import Concat, Flatten, Pad, Slice
from quantizable.verify.stages import Activation, Conv2d
from quantizable.verify.trace import graph_of

SHAPE = (2, 4, 4)
MODES = [2, 4, 8, "w4a8", 32]


class Shortcut(nn.Module):
    """Every second pixel, and zeros for new channels: option A of the CIFAR ResNets."""

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


class Cropped(nn.Module):
    def forward(self, x):
        return F.pad(x[:, 1:, 1:-1, :3], (1, 0, 0, 1))


class Branches(nn.Module):
    """Two convolutions side by side, and the input beside them."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return torch.cat([self.two(x), x.relu(), self.one(x)], 1)


LAYERS = {
    "shortcut": Shortcut,
    "slice": Cropped,
    "concatenation": Branches,
    "max pooling": lambda: nn.MaxPool2d(2),
    "max pooling, overlapping and padded": lambda: nn.MaxPool2d(3, 2, 1),
    "global max pooling": lambda: nn.AdaptiveMaxPool2d(1),
    "global average pooling": lambda: nn.AdaptiveAvgPool2d(1),
    "groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "Hardswish": nn.Hardswish,
    "Hardsigmoid": nn.Hardsigmoid,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU,
}


@cache
def graphs_with(layer, quantizer="lsq"):
    """The graphs of all modes of a small network around a layer."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), LAYERS[layer]())
    channels, height, width = body(torch.zeros(1, *SHAPE)).shape[1:]
    model = nn.Sequential(
        *body, nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * height * width, 3)
    )
    for parameter in model.parameters():
        parameter.data *= 3.0  # values that reach the bends of the curves
    network = quantizable.quantize(model, MODES, quantizer, first_last="mode")
    network.calibrate([torch.rand(64, *SHAPE)])
    graphs = {str(mode): graph_of(network.eval(), SHAPE, mode) for mode in MODES}
    return graphs.pop("32"), graphs


def on_ties_and_borders(graph):
    """Inputs whose pixels are ties and clamp borders of the first quantizer, ``(2, *SHAPE)``."""
    first = graph.nodes[0].stage
    codes = torch.arange(32, dtype=torch.float64).reshape(SHAPE)
    tie = (codes % 3 + 0.5 - first.zero_point) * first.step
    border = torch.where(codes % 2 == 0, first.low, first.high + first.step / 2 * (codes % 4 == 1))
    return torch.stack([tie, border])


def ascent(first, second, box, steps=4):
    """Inputs that climb the difference of each output; the gradient passes the rounding unchanged."""
    smooth = [
        type(graph)(
            [replace(n, stage=replace(n.stage, step=0.0)) if isinstance(n.stage, Activation) else n
             for n in graph.nodes],
            graph.input_shape,
        )
        for graph in (first, second)
    ]  # fmt: skip
    found = []
    for sign in (1.0, -1.0):
        x = box.center.clone()
        for _ in range(steps):
            x.requires_grad_(True)
            (sign * (smooth[1](x) - smooth[0](x))).sum().backward()
            x = (x.detach() + (box.high - box.low) / 4 * x.grad.sign()).clamp(box.low, box.high)
            found.append(x)
    return found


def attack(first, others, centers, radius):
    """How many values of any stage lie outside their bounds; the analysis ``joint`` uses every rule."""
    outside = 0
    for center in centers:
        box = Box.around(center[None], radius)
        known = mode_difference_bounds(first, others, box, "joint")
        draw = torch.Generator().manual_seed(1)
        share = torch.rand(30, *SHAPE, generator=draw, dtype=torch.float64)
        share[::2] = share[::2].round()
        for name, second in others.items():
            x = torch.cat([box.low + (box.high - box.low) * share, *ascent(first, second, box)])
            a, b, bounds = first.values(x), second.values(x), known[name]
            for i in range(len(a)):
                for interval, value in (
                    (bounds.first[i], a[i]), (bounds.second[i], b[i]), (bounds.difference[i], b[i] - a[i]),
                ):  # fmt: skip
                    outside += int((~interval.contains(value, 1e-12)).sum())
    return outside


def attacked(layer, quantizer="lsq"):
    first, others = graphs_with(layer, quantizer)
    outside = attack(first, others, center(), 0.3) + attack(first, others, center(), 0.0)
    four = {"4": others["4"]}
    ties = on_ties_and_borders(others["4"])
    return outside + sum(attack(first, four, ties, radius) for radius in (0.0, 0.02))


def center():
    return torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def caught(layer):
    """Whether a part of the attack notices that something is wrong."""
    first, others = graphs_with(layer)
    return attack(first, {"4": others["4"]}, center(), 0.6) > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_no_value_leaves_its_bounds(layer):
    assert attacked(layer) == 0


@pytest.mark.parametrize("quantizer", ["nested", "lsq_plus"])
@pytest.mark.parametrize("layer", ["shortcut", "max pooling", "GELU"])
def test_no_value_leaves_its_bounds_with_other_quantizers(layer, quantizer):
    assert attacked(layer, quantizer) == 0


def without_last_row(stage, y, in_shape):
    x = y.new_zeros(y.shape[0], *in_shape)
    x[stage.index] = y
    return x.roll(1, -1)


def no_padding(stage, y, in_shape):
    return F.pad(y.roll(1, -3), tuple(-amount for amount in stage.padding))


def reversed_parts(stage, y, in_shapes):
    parts = y.split([shape[0] for shape in in_shapes], -3)
    return [part.flip(-3) for part in parts]


def always_the_picked(stage, x, rule=pool_bounds.relax_pool):
    pick = rule(stage, x)
    return pick._replace(only=torch.ones_like(pick.only))


def of_the_middle(stage, difference, x1, x2):
    return pool_bounds.Interval(
        *(F.avg_pool2d(d, stage.kernel, stage.stride, stage.padding) for d in difference)
    )


WRONG = {
    "the adjoint of a slice is shifted": ("shortcut", Slice, "adjoint", without_last_row),
    "the adjoint of padding is shifted": ("shortcut", Pad, "adjoint", no_padding),
    "the parts of a concatenation are turned": ("concatenation", Concat, "split", reversed_parts),
    "max pooling always takes one input": ("max pooling", reach, "relax_pool", always_the_picked),
    "max pooling's difference is a mean": ("max pooling", propagation, "pool_difference", of_the_middle),
    "global max pooling's difference is a mean": (
        "global max pooling", propagation, "pool_difference", of_the_middle,
    ),
    "|A| of grouped convolutions has signs": ("groups", Conv2d, "absolute", lambda stage: stage),
    "|A| of depthwise convolutions has signs": ("depthwise", Conv2d, "absolute", lambda stage: stage),
    "|A| of average pooling is smaller": (
        "global average pooling", Conv2d, "absolute",
        lambda stage: replace(stage, weight=stage.weight.abs() / 2, bias=stage.bias.abs()),
    ),
    "a flattened value is turned": (
        "Tanh", Flatten, "adjoint", lambda stage, y, shape: y.reshape(-1, *shape).flip(-1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_caught(wrong, monkeypatch):
    layer, place, name, rule = WRONG[wrong]
    monkeypatch.setattr(place, name, rule)
    assert caught(layer)


CURVES = {
    "LeakyReLU": "leaky_relu", "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "Sigmoid": "sigmoid",
    "Tanh": "tanh", "GELU": "gelu", "GELU by tanh": "gelu_tanh", "SiLU": "silu",
}  # fmt: skip


@pytest.mark.parametrize("layer", CURVES)
def test_a_wrong_rule_of_a_curve_is_caught(layer, monkeypatch):
    """Only the ends are looked at, and nothing is said of what lies between."""
    function = Curve(CURVES[layer], 0.1).function
    wrong = replace(function, curvature=0.0, jumps=())
    monkeypatch.setattr(curve_bounds, "INTERVALS", 1)
    monkeypatch.setattr(Curve, "function", wrong)
    assert caught(layer)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_stated_of_a_function_is_true(name):
    """Derivative, curvature and valley against autograd on a dense grid."""
    f = FUNCTIONS[name]
    x = torch.linspace(-12, 12, 200_003, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f.value(x).sum(), x)
    away = torch.stack([(x - at).abs() > 1e-9 for at, _, _ in f.jumps] or [x == x]).all(0)
    torch.testing.assert_close(f.slope(x)[away], slope[away], atol=1e-8, rtol=1e-9)  # 1 / 6 in float32
    steps = f.slope(x.detach()).diff() / x.detach().diff()
    inside = away[1:] & away[:-1]
    for at, left, right in f.jumps:
        inside &= ((x[1:] < at) | (x[:-1] > at)).detach()
        one = torch.tensor([at - 1e-7, at + 1e-7], dtype=torch.float64)
        sides = torch.tensor([left, right], dtype=torch.float64)
        torch.testing.assert_close(f.slope(one), sides, atol=1e-6, rtol=0)
    assert steps[inside].abs().max() <= f.curvature + 1e-9
    if f.valley > -torch.inf:
        bottom = f.value(torch.tensor(f.valley, dtype=torch.float64))
        assert bottom <= f.value(x.detach()).min() + 1e-15


@pytest.mark.parametrize("layer", ["GELU", "max pooling"])
def test_what_the_program_cannot_encode_stays_open(layer):
    """Bounds and search alone decide; a question between the two is neither proved nor refuted."""
    first, others = graphs_with(layer)
    box = Box.around(center(), 0.01)
    high = float(mode_difference_bounds(first, others, box)["4"].output.magnitude[0, 0])
    verdict = decide(first, others["4"], box, 0, 0.999 * high, time_limit=5)
    assert (verdict.status, verdict.method) == ("unknown", "search")
    assert decide(first, others["4"], box, 0, 1.001 * high).status == "proved"
