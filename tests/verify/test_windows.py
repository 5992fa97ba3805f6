"""Back-substitution through windows of an image against the same one with dense matrices.

The reference builds the matrix of each linear stage by running it on unit vectors, and multiplies. It shares
the relaxations with the library, and nothing of what moves coefficients.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantizable
from quantizable.verify import Box, difference_bounds, reach, symbolic
from quantizable.verify.graph import apply
from quantizable.verify.interval import Interval
from quantizable.verify.pool_bounds import Pick
from quantizable.verify.symbolic import Form, upper_form
from quantizable.verify.trace import graph_of
from quantizable.verify.windows import Rows, single_neurons
from tests.verify.conftest import sample


class Block(nn.Module):
    """A residual block of the CIFAR ResNets, with their shortcut of slices and zeros."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x):
        y = self.two(self.one(x).relu())
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return (x + y).relu()


class Split(nn.Module):
    """Branches of different depth: their windows of one value differ in size."""

    def __init__(self):
        super().__init__()
        self.short, self.deep = nn.Conv2d(3, 2, 1), nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3))

    def forward(self, x):
        return torch.cat([self.short(x)[:, :, 2:-2, 2:-2], self.deep(x)], 1)


def tail(channels):
    return nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)


NETWORKS = {
    "residual": lambda: nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), Block(2, 2, 1), Block(2, 4, 2), *tail(4)
    ),
    "strides, dilation, groups": lambda: nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), nn.SiLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Hardswish(), nn.Conv2d(4, 6, 1, groups=2), *tail(6),
    ),
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3), nn.ReLU(),
        nn.AvgPool2d(2, 1), *tail(3),
    ),
    "branches": lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), Split(), *tail(4)),
}  # fmt: skip


def graphs(name, size=9):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    network = quantizable.quantize(model, [4, 8, 32], "lsq", first_last="mode")
    network.calibrate([torch.rand(16, 3, size, size)])
    return {mode: graph_of(network.eval(), (3, size, size), mode) for mode in (32, 8, 4)}


def box(size=9):
    return Box.around(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)), 0.01)


def matrix(stage, shapes):
    """The stage's matrix of each input, ``(outputs, inputs)``, from its values at unit vectors."""
    found = []
    for i, shape in enumerate(shapes):
        units = torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)
        zeros = [torch.zeros(len(units), *s, dtype=torch.float64) for s in shapes]
        at = [units if k == i else zero for k, zero in enumerate(zeros)]
        found.append((apply(stage, *at) - apply(stage, *zeros)).flatten(1).T)
    return found


def dense_upper(graph, value, rows, lines):
    """Coefficients of the input and constant of an upper bound of ``rows @ v``, ``(batch, rows, ...)``."""
    pending, constant = {value: rows}, 0.0
    for index in range(value, 0, -1):
        if index not in pending:
            continue
        a = pending.pop(index)
        node = graph.nodes[index - 1]
        shapes = [graph.shapes[i] for i in node.inputs]
        relaxed = lines.get(index - 1)
        up, down = a.clamp(min=0), a.clamp(max=0)
        if isinstance(relaxed, Pick):
            channels, height, width = shapes[0]
            picked = torch.where(relaxed.only.flatten(1)[:, None], a, down)
            at = relaxed.at + torch.arange(channels).reshape(1, -1, 1, 1) * height * width
            chosen = F.one_hot(at.flatten(1), channels * height * width).double()
            constant = constant + ((a - picked) @ relaxed.high.flatten(1)[..., None])[..., 0]
            parts = [picked @ chosen]
        elif relaxed is not None:
            upper, lower = ([x.flatten(1) for x in line] for line in (relaxed.upper, relaxed.lower))
            constant = constant + (up @ upper[1][..., None] + down @ lower[1][..., None])[..., 0]
            parts = [up * upper[0][:, None] + down * lower[0][:, None]]
        else:
            zeros = [torch.zeros(1, *s, dtype=torch.float64) for s in shapes]
            constant = constant + a @ apply(node.stage, *zeros).flatten()
            parts = [a @ m for m in matrix(node.stage, shapes)]
        for source, part in zip(node.inputs, parts, strict=True):
            pending[source] = pending.get(source, 0.0) + part
    return pending[0], constant


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bounds_are_those_of_dense_matrices(name):
    where = box()
    for graph in graphs(name).values():
        known = reach.Reach(graph, where, "symbolic").finish()
        for value in known.refined:
            size = graph.shapes[value].numel()
            rows = torch.cat([torch.eye(size), -torch.eye(size)]).double().expand(2, -1, -1)
            a, constant = dense_upper(graph, value, rows, known._relaxations)
            middle, radius = (where.low + where.high) / 2, (where.high - where.low) / 2
            highest = (a @ middle.flatten(1)[..., None] + a.abs() @ radius.flatten(1)[..., None])[..., 0]
            high, low = (highest + constant).chunk(2, 1)
            found = known.bounds[value]
            torch.testing.assert_close(found.high.flatten(1), high, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.low.flatten(1), -low, rtol=1e-9, atol=1e-9)
            assert (found.high.flatten(1) >= high - 1e-13).all()
            assert (found.low.flatten(1) <= -low + 1e-13).all()


def test_no_coefficient_is_kept_outside_of_the_windows():
    """Six convolutions of an image of 32 x 32: a row takes the 13 x 13 pixels that its neuron sees."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(6)]
    graph = graph_of(nn.Sequential(*layers), (2, 32, 32))
    form = upper_form(graph, 6, single_neurons(graph.shapes[6], slice(500, 540)), {}, {})
    assert form.parts[0].values.shape == (1, 40, 4, 2, 13, 13)
    assert form.largest == 2 * 13 * 13


def test_a_walk_that_ends_early_is_looser_and_holds(monkeypatch):
    """Ended after few stages, forms are of inner values, and the difference is of theirs."""
    found = graphs("residual")
    where = box()
    for mode in (8, 4):
        full = difference_bounds(found[32], found[mode], where, "joint").output
        monkeypatch.setattr(reach, "MOST_COEFFICIENTS", 2 * 2 * 81 * 60)
        known = reach.Reach(found[mode], where, "joint")
        while len(known.bounds) < 8:
            known.advance()
            for form in known._forms:
                assert form.parts.keys() != {0} or len(known.bounds) < 6
        early = difference_bounds(found[32], found[mode], where, "joint").output
        monkeypatch.undo()
        assert (early.width >= full.width - 1e-9).all()
        assert (early.width > full.width + 1e-6).any()
        for x in sample(where, 40):
            assert early.contains(found[mode](x) - found[32](x), 1e-12).all()


def away(rows):
    return Rows(rows.values, None if rows.start is None else rows.start + 1)


SEEN, INSIDE, PLUS = Rows.seen, Rows.inside, Rows.plus
AFFINE, SUBTRACT = symbolic.affine_step, Form.plus_maximum
WRONG = {
    "lines are read one pixel beside the window": (Rows, "seen", lambda rows, x: SEEN(away(rows), x)),
    "the padding of a convolution is forgotten": (
        Rows, "inside", lambda rows, shape: INSIDE(Rows(rows.values, rows.start + 1), shape),
    ),
    "the shift between two windows is forgotten": (
        Rows, "plus",
        lambda a, b, shape: PLUS(a, b if b.start is None else Rows(b.values, a.start), shape),
    ),
    "the bias is forgotten": (
        symbolic, "affine_step", lambda *given: (AFFINE(*given)[0], torch.zeros(1, 1, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_caught(wrong, monkeypatch):
    monkeypatch.setattr(*WRONG[wrong])
    with pytest.raises(AssertionError):
        test_the_bounds_are_those_of_dense_matrices("residual")


def test_forgetting_how_inner_values_differ_is_caught(monkeypatch):
    found, where = graphs("residual"), box()

    def equal(a, b, own, difference):
        return SUBTRACT(a, b, own, [Interval(d.low * 0, d.high * 0) for d in difference])

    monkeypatch.setattr(Form, "plus_maximum", equal)
    monkeypatch.setattr(reach, "MOST_COEFFICIENTS", 2 * 2 * 81 * 60)
    early = difference_bounds(found[32], found[4], where, "joint")
    outside = 0
    for x in sample(where, 20):
        a, b = found[32].values(x), found[4].values(x)
        outside += sum(
            int((~known.contains(q - p, 1e-12)).sum())
            for known, p, q in zip(early.difference, a, b, strict=True)
        )
    assert outside > 0
