"""Recurrent layers: the contract, and the formulas of torch's documentation on quantized operands."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from quantizable import quantize
from quantizable.nn.recurrent import RECURRENT, Recurrent
from quantizable.nn.recurrent_products import QuantProduct
from tests.nn.contract import LayerContract, equal, tensors

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "projected": (nn.LSTM, {"proj_size": 3, "bidirectional": True}),
    "gru": (nn.GRU, {"num_layers": 2, "dropout": 0.5}),
    "no bias": (nn.GRU, {"bias": False, "bidirectional": True}),
    "rnn": (nn.RNN, {"batch_first": True}),
    "relu": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
}
CELLS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lstm cell": (nn.LSTMCell, {}),
    "gru cell": (nn.GRUCell, {}),
    "rnn cell": (nn.RNNCell, {"bias": False}),
    "relu cell": (nn.RNNCell, {"nonlinearity": "relu"}),
}
SEQUENCES = [torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Two(nn.Module):
    """A cell called twice, as a user's loop does: the second time with a state of its own making."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Any:
        return self.cell(x, self.cell(x))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
class TestRecurrent(LayerContract):
    @pytest.fixture(params=[*LAYERS, *CELLS])
    def case(self, request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        kind, options = (LAYERS | CELLS)[request.param]
        layer = kind(4, 6, **options)
        return (layer, torch.randn(5, 3, 4)) if request.param in LAYERS else (Two(layer), torch.randn(5, 4))


def literal(layer: nn.Module, x: list[Tensor], name: str, h: Tensor, c: Tensor) -> list[Tensor]:
    """The formulas of torch's documentation, gate by gate, with both operands of each product on their grid.

    Args:
        layer: a quantized layer.
        x: the input of each step, ``[B, in]``.
        name: ``"l0"``, ``"l1_reverse"``.
        h, c: the first states.
    """
    products = {kind: layer._modules.get(f"{kind}_{name}") for kind in ("ih", "hh", "hr")}

    def product(kind: str, value: Tensor, gate: int) -> Tensor:
        own = products[kind]
        assert isinstance(own, QuantProduct)
        size = 3 if kind == "hr" else 6
        rows = slice(gate * size, (gate + 1) * size)
        bias = 0 if own.bias is None else own.bias[rows]
        return own.input_quantizer(value) @ own.quantized_weight()[rows].T + bias

    outputs = []
    for value in x:
        both = [lambda g, v=value, h=h: product("ih", v, g) + product("hh", h, g)][0]
        if isinstance(layer, nn.LSTM):
            i, f, g, o = both(0).sigmoid(), both(1).sigmoid(), both(2).tanh(), both(3).sigmoid()
            c = f * c + i * g
            h = o * c.tanh()
            h = product("hr", h, 0) if layer.proj_size else h
        elif isinstance(layer, nn.GRU):
            r, z = both(0).sigmoid(), both(1).sigmoid()
            n = (product("ih", value, 2) + r * product("hh", h, 2)).tanh()
            h = (1 - z) * n + z * h
        else:
            h = both(0).relu() if layer.nonlinearity == "relu" else both(0).tanh()
        outputs.append(h)
    return outputs


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("quantizer", ["lsq", "pact"])
def test_a_layer_is_the_documented_formula_on_operands_on_their_grids(name: str, quantizer: str) -> None:
    torch.manual_seed(0)
    kind, options = LAYERS[name]
    net = quantize(kind(4, 6, **options), [3, 32], quantizer, first_last="mode").eval().double()
    x = torch.randn(3, 5, 4).double()  # [B, T, in]
    given = x if options.get("batch_first") else x.transpose(0, 1)
    net.calibrate([given])
    net.set_bits(3)
    layer = net.model
    width = options.get("proj_size", 6)
    steps = list(x.unbind(1))
    for number in range(options.get("num_layers", 1)):
        outputs = []
        for suffix in ("", "_reverse")[: 2 if options.get("bidirectional") else 1]:
            h, c = torch.zeros(3, width).double(), torch.zeros(3, 6).double()
            order = steps[::-1] if suffix else steps
            found = literal(layer, order, f"l{number}{suffix}", h, c)
            outputs.append(found[::-1] if suffix else found)
        steps = [torch.cat(parts, -1) for parts in zip(*outputs, strict=True)]
    expected = torch.stack(steps, 1 if options.get("batch_first") else 0)
    torch.testing.assert_close(net(given)[0], expected)


def fine(layer: nn.Module) -> Any:
    """The layer at 16 bits with ranges that hold everything: so fine that only a wrong order shows."""
    net = quantize(layer, [2, 16, 32], first_last="mode")
    for product in net.layers().values():
        level = product.input_quantizer.level(16)
        level.set_signed(True)
        level.scale.data.fill_(8 / 2**15)
        level.set_ready(True)
    return net


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("form", ["batch", "packed", "one"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_input_gives_what_the_float_layer_gives(name: str, form: str, state: bool) -> None:
    torch.manual_seed(0)
    kind, options = LAYERS[name]
    layer = kind(4, 6, **options).eval()
    x: Any = torch.randn(5, 4, 4)
    first = options.get("batch_first", False)
    batch = 5 if first else 4
    cells = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h, c = torch.randn(cells, batch, options.get("proj_size", 6)), torch.randn(cells, batch, 6)
    if form == "packed":
        lengths = [2, 4, 1, 4, 3][:batch] if first else [2, 5, 1, 5]
        x = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
    elif form == "one":
        x, h, c = (x[0] if first else x[:, 0]), h[:, 0], c[:, 0]
    given = [] if not state else [(h, c) if kind is nn.LSTM else h]
    net = fine(layer)
    assert equal(net(x, *given), layer(x, *given))
    net.set_bits(16)
    found, expected = net(x, *given), layer(x, *given)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-3)
        assert one.is_contiguous() or not other.is_contiguous()
    if form == "packed":
        assert isinstance(found[0], PackedSequence)
        for one, other in zip(pad_packed_sequence(found[0]), pad_packed_sequence(expected[0]), strict=True):
            assert one.shape == other.shape
        assert torch.equal(found[0].batch_sizes, expected[0].batch_sizes)


@pytest.mark.parametrize("name", CELLS)
def test_every_form_of_input_gives_what_the_float_cell_gives(name: str) -> None:
    kind, options = CELLS[name]
    layer = kind(4, 6, **options)
    net = fine(layer)
    net.set_bits(16)
    h, c = torch.randn(3, 6), torch.randn(3, 6)
    for part in (slice(None), 0):
        state = (h[part], c[part]) if kind is nn.LSTMCell else h[part]
        x = torch.randn(3, 4)[part]
        for given in ((x,), (x, state)):
            for one, other in zip(tensors(net(*given)), tensors(layer(*given)), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=3e-3)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
def test_under_autocast_states_and_gates_stay_in_float32(name: str) -> None:
    kind, options = (LAYERS | CELLS)[name]
    net = fine(kind(4, 6, **options).eval())
    net.set_bits(16)
    x = torch.randn(5, 3, 4) if name in LAYERS else torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors(net(x))
    for one, other in zip(found, tensors(net(x)), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0.05)
        assert not torch.equal(one, other)
    sum(one.sum() for one in found).backward()


def test_wrong_shapes_are_refused_as_by_the_float_layer() -> None:
    for kind in (nn.LSTM, nn.GRU):
        layer = kind(4, 6)
        net = fine(layer)
        net.set_bits(16)
        state = torch.randn(1, 2, 6)
        wrong = [(torch.randn(5, 3, 5),), (torch.randn(2, 5, 3, 4),), (torch.randn(5, 3, 4), state)]
        if kind is nn.LSTM:
            wrong[2] = (torch.randn(5, 3, 4), (state, state))  # type: ignore[assignment]
        for given in wrong:
            for refused in (layer, net):
                with pytest.raises((RuntimeError, ValueError), match=r"dim|size|2D or 3D"):
                    refused(*given)


def test_a_stacked_layer_is_switched_product_by_product() -> None:
    net = quantize(nn.Sequential(nn.LSTM(4, 6, 2)), [2, 4, 32])
    net.calibrate(SEQUENCES)
    assert [*net.layers()] == ["0.ih_l0", "0.hh_l0", "0.ih_l1", "0.hh_l1"]
    net.set_bits({"*_l1": 4, "0.hh_l0": 2}, default=32)
    assert net.bits == {"0.ih_l0": 32, "0.hh_l0": 2, "0.ih_l1": 4, "0.hh_l1": 4}
    mixed = net(SEQUENCES[0])
    net.set_bits(net.bits)
    assert equal(net(SEQUENCES[0]), mixed)
    net.set_bits(4)
    assert not equal(net(SEQUENCES[0]), mixed)


def test_the_first_layer_is_what_reads_the_input_and_a_state_is_no_class() -> None:
    net = quantize(nn.LSTM(4, 6, 2, bidirectional=True), [2, 32])
    fixed = {name for name, layer in net.layers().items() if layer.fixed_bits == 8}
    assert fixed == {"ih_l0", "ih_l0_reverse"}
    net = quantize(nn.Sequential(nn.GRU(4, 6), nn.Linear(6, 2)), [2, 32])
    assert {name for name, layer in net.layers().items() if layer.fixed_bits == 8} == {"0.ih_l0", "1"}


def test_the_first_training_batch_sets_the_grid_of_all_states_not_of_the_first() -> None:
    torch.manual_seed(0)
    calibrated = quantize(nn.LSTM(4, 6), [4, 32], first_last="mode")
    calibrated.calibrate(SEQUENCES[:1])
    torch.manual_seed(0)
    net = quantize(nn.LSTM(4, 6), [4, 32], first_last="mode").train()
    net.set_bits(4)
    with pytest.warns(UserWarning, match="before calibration"):
        output = net(SEQUENCES[0])[0].detach()
    grid = net.model.hh_l0.input_quantizer.level(4)
    assert grid.ready
    states = torch.cat([torch.zeros(1, 3, 6), output[:-1]])  # those of 4-bit weights and inputs: close
    assert 8 * grid.scale.item() > states.abs().max().item() / 2
    assert grid.scale.item() / calibrated.model.hh_l0.input_quantizer.level(4).scale.item() == pytest.approx(
        1, abs=0.5
    )


def test_a_step_size_of_the_states_moves_as_if_they_came_all_at_once() -> None:
    """LSQ's factor counts the features of one sample, those of all steps; packed, on average."""
    net = quantize(nn.GRU(4, 6, batch_first=True), [4, 32], first_last="mode")
    x = SEQUENCES[0].transpose(0, 1).contiguous()  # 3 sequences of 5 steps
    net.calibrate([x])
    net.set_bits(4)
    quantizer = net.model.hh_l0.input_quantizer
    net(x)
    state = torch.zeros(3, 6)
    assert quantizer.elements(state, quantizer.level(4)) == 5 * 6
    net(pack_padded_sequence(x, [5, 3, 1], batch_first=True))
    assert quantizer.elements(state, quantizer.level(4)) == 3 * 6
    given = net.model.ih_l0.input_quantizer
    assert given.elements(torch.zeros(9, 4), given.level(4)) == 3 * 4


def test_weights_are_reset_as_in_the_float_layer_and_step_sizes_are_left_alone() -> None:
    net = quantize(nn.LSTM(4, 6), [4, 32])
    net.calibrate(SEQUENCES)
    before = {name: level.clone() for name, level in net.named_parameters() if ".levels." in name}
    torch.manual_seed(1)
    net.model.reset_parameters()
    torch.manual_seed(1)
    expected = nn.LSTM(4, 6)
    assert torch.equal(net.model.weight_hh_l0, expected.weight_hh_l0)
    assert all(torch.equal(level, dict(net.named_parameters())[name]) for name, level in before.items())


def test_a_subclass_with_a_forward_of_its_own_is_named_and_stays_float() -> None:
    class Doubled(nn.LSTM):
        def forward(self, input: Any, hx: Any = None) -> Any:
            return super().forward(2 * input, hx)

    class Renamed(nn.LSTM):
        """Inherits its forward."""

    model = nn.ModuleDict({"own": Doubled(4, 6), "known": Renamed(4, 6)})
    with pytest.warns(UserWarning, match=r"^own \(Doubled\): "):
        net = quantize(model, [4, 32])
    assert [*net.layers()] == ["known.ih_l0", "known.hh_l0"]
    assert type(net.to_float()["known"]) is Renamed


def test_weights_that_a_hook_computes_are_refused() -> None:
    with pytest.warns(FutureWarning):
        hooked = torch.nn.utils.weight_norm(nn.LSTM(4, 6), "weight_hh_l0")
    with pytest.raises(ValueError, match="a hook computes the weight"):
        quantize(nn.Sequential(hooked, nn.Linear(6, 2)), [4, 32])


def test_a_layer_put_in_later_is_converted() -> None:
    net = quantize(nn.Sequential(nn.LSTM(4, 6), nn.Identity()), [4, 32], first_last="mode")
    net.model[0] = nn.GRU(4, 6)
    net.set_bits(4)
    assert {name: layer.bits.name for name, layer in net.layers().items()} == {"0.ih_l0": "4", "0.hh_l0": "4"}
    assert type(net.to_float()[0]) is nn.GRU


def test_excluded_layers_run_the_fused_kernel_in_every_mode() -> None:
    model = nn.Sequential(OrderedDict(rnn=nn.LSTM(4, 6), fc=nn.Linear(6, 2)))
    net = quantize(model, [4, 32], exclude="rnn.*")
    net.set_bits(4)
    assert [*net.layers()] == ["fc"]
    assert equal(net.rnn(SEQUENCES[0]), model.rnn(SEQUENCES[0]))


def test_every_class_has_its_case() -> None:
    assert {kind for kind, _ in (LAYERS | CELLS).values()} == set(RECURRENT)
    assert all(issubclass(quant, Recurrent) for quant in RECURRENT.values())


def test_a_pattern_that_names_a_recurrent_layer_names_its_products() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.fc = nn.GRU(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.gru(x)[0])

    assert [*quantize(Net(), [4], exclude="gru").layers()] == ["fc"]
    assert [*quantize(Net(), [4], include="gru").layers()] == ["gru.ih_l0", "gru.hh_l0"]
    assert [*quantize(Net(), [4], include="g*").layers()] == ["gru.ih_l0", "gru.hh_l0"]
    fixed = quantize(Net(), [4], first_last="mode", overrides={"gru": {"bits": 6}})
    assert [layer.bits.name for layer in fixed.layers().values()] == ["6", "6", "4"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_a_product_that_somebody_watches_is_called_in_mode_32_too(kind: type[nn.Module]) -> None:
    net = quantize(kind(4, 6), [4, 32])
    x = SEQUENCES[0] if kind is nn.LSTM else SEQUENCES[0][0]
    expected, seen = net(x), []
    for product in net.layers().values():
        product.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    for one, other in zip(tensors(net(x)), tensors(expected), strict=True):
        torch.testing.assert_close(one, other)
    steps = [(3, 6)] * (5 if kind is nn.LSTM else 1)
    assert seen == [(3, 5, 4) if kind is nn.LSTM else (3, 4), *steps]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_no_sequences_and_no_steps_are_answered_as_torch_does(kind: type[nn.Module], grad: bool) -> None:
    layer = kind(4, 3, batch_first=True)
    net = quantize(layer, [4, 32])
    net.calibrate([torch.randn(2, 6, 4)])
    net.set_bits(4)
    with torch.set_grad_enabled(grad):
        for found, wanted in zip(
            tensors(net(torch.zeros(0, 6, 4))), tensors(layer(torch.zeros(0, 6, 4))), strict=True
        ):
            assert found.shape == wanted.shape
        for one in (layer, net):
            with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
                one(torch.zeros(2, 0, 4))
