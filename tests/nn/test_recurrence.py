"""The recurrence as one node of the graph: what the steps through autograd give, forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantizable import QuantizableNetwork, quantize
from quantizable.nn import recurrent
from quantizable.nn.recurrence import Grid, gru_recurrence, lstm_recurrence
from tests.nn.contract import tensors


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call to go step by step from then on."""
    return lambda: monkeypatch.setattr(recurrent, "RECURRENCES", {})


def gradients(net: QuantizableNetwork, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of everything from a fixed combination of them."""
    given = [part.clone().requires_grad_() for part in (x, *state)]
    net.zero_grad()
    found = tensors(net(given[0], tuple(given[1:]) if len(state) > 1 else given[1]))
    torch.manual_seed(1)
    sum((one * torch.randn(one.shape)).sum() for one in found).backward()
    named = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return [*found, *(part.grad for part in given), *named]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(
    "options", [{"bidirectional": True, "num_layers": 2, "batch_first": True}, {"bias": False}]
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_values_and_gradients_are_those_of_the_steps(
    kind: type[nn.Module], options: dict[str, Any], clipped: bool, loop: Any
) -> None:
    torch.manual_seed(0)
    net = quantize(kind(5, 7, **options), [3, 32], first_last="mode").train()
    x = torch.randn(4, 6, 5)
    net.calibrate([x])
    net.set_bits(3)
    if clipped:
        for layer in net.layers().values():
            layer.input_quantizer.level(3).scale.data *= 0.3
    cells, batch = (4, 4) if options.get("batch_first") else (1, 6)
    state = [0.3 * torch.randn(cells, batch, 7) for _ in range(2 if kind is nn.LSTM else 1)]
    once = gradients(net, x, state)
    loop()
    for one, step_by_step in zip(once, gradients(net, x, state), strict=True):
        torch.testing.assert_close(one, step_by_step, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gates", [3, 4])
def test_gradients_are_the_derivatives_where_the_grid_is_so_fine_that_it_rounds_nothing(gates: int) -> None:
    """By differences: of all but the step size, whose gradient is no derivative (LSQ eq. 3)."""
    torch.manual_seed(0)
    scale, grid = torch.tensor(2.0**-29).double(), Grid(-(2**34), 2**34, 1.0)
    x, weight = torch.randn(3, 2, gates * 2).double(), torch.randn(gates * 2, 2).double()
    bias, state = torch.randn(gates * 2).double(), [torch.randn(2, 2).double() for _ in range(gates - 2)]
    given = [part.requires_grad_() for part in (x, weight, bias, *state)]

    def run(x: Tensor, weight: Tensor, bias: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        outputs, last = (gru_recurrence if gates == 3 else lstm_recurrence)(
            x, weight, bias, state, scale, grid
        )
        return outputs, *last

    assert torch.autograd.gradcheck(run, given, eps=1e-3, atol=1e-4)


def test_it_runs_in_training_by_lsq_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    counted = lambda *given: calls.append(1) or gru_recurrence(*given)  # noqa: E731
    monkeypatch.setitem(recurrent.RECURRENCES, "GRU", counted)
    net = quantize(nn.GRU(5, 7), [4, 32], first_last="mode")
    x = torch.randn(4, 6, 5)
    net.calibrate([x])
    net(x)
    net.set_bits(4)
    with torch.no_grad():
        net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    net(nn.utils.rnn.pack_padded_sequence(x, [4, 3, 2, 2, 1, 1]))
    handle = net.model.hh_l0.register_forward_hook(lambda *_: None)  # wants to see every step
    net(x)
    handle.remove()
    net.double()(x.double())
    assert not calls
    net.float()(x)
    assert calls == [1]
    net = quantize(nn.GRU(5, 7), [4, 32], "pact", first_last="mode")
    net.calibrate([x])
    net.set_bits(4)
    net(x)
    assert calls == [1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_second_derivatives_are_refused_and_there_in_float64(kind: type[nn.Module]) -> None:
    net = quantize(kind(5, 7), [4, 32], first_last="mode")
    x = torch.randn(4, 6, 5)
    net.calibrate([x])
    net.set_bits(4)
    given = x.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(net(given)[0].sum(), given, create_graph=True)
    given = x.double().requires_grad_()
    (first,) = torch.autograd.grad(net.double()(given)[0].sum(), given, create_graph=True)
    first.sum().backward()
    assert given.grad.abs().sum() > 0
