"""Gradients of layers that a checkpoint computes again, against those without one (bit for bit on a CPU)."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantizable import QuantizableNetwork, quantize

MODES = [2, 4, 8, 32]
Forward = Callable[[QuantizableNetwork, Tensor], Tensor]


class Blocks(nn.Module):
    """Two blocks and a classifier; ``how`` runs a block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()) for c in (3, 6)
        )
        self.fc = nn.Linear(6, 4)
        self.how: Callable[..., Tensor] = lambda block, x: block(x)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.how(block, x)
        return self.fc(x.mean((2, 3)))


def inputs() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def made(model: nn.Module | None = None, **options: object) -> QuantizableNetwork:
    torch.manual_seed(0)
    net = quantize(model or Blocks(), MODES, **options).train()
    net.calibrate([inputs().detach()])
    return net


def losses_behind_blocks(net: QuantizableNetwork, forward: Forward) -> None:
    """All modes forward, then one backward pass, in yet another mode."""
    total = torch.zeros(())
    for bits in (4, 2, 32, 8, {"blocks.1.*": 2, "fc": 8}):
        with net.at_bits(bits, *([4] if isinstance(bits, dict) else [])):
            total = total + forward(net, inputs()).square().mean() * (1 if isinstance(bits, dict) else bits)
    net.set_bits(32)
    total.backward()


def result(net: QuantizableNetwork, forward: Forward) -> dict[str, Tensor]:
    """Gradients, and statistics of the norms, after a step."""
    losses_behind_blocks(net, forward)
    assert net.bits == 32
    assert {layer.bits.name for layer in net.layers().values()} == {"32"}
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found | {f"{name} (buffer)": buffer for name, buffer in net.named_buffers()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float = 0) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol, msg=name)


def plain(net: QuantizableNetwork, x: Tensor) -> Tensor:
    return net(x)


WAYS: dict[str, tuple[Callable[..., Tensor] | None, Forward]] = {
    "block": (lambda b, x: checkpoint(b, x, use_reentrant=False), plain),
    "block, reentrant": (lambda b, x: checkpoint(b, x, use_reentrant=True), plain),
    "network": (None, lambda net, x: checkpoint(net, x, use_reentrant=False)),
    "network, reentrant": (None, lambda net, x: checkpoint(net, x, use_reentrant=True)),
    "one in another": (
        lambda b, x: checkpoint(b, x, use_reentrant=False),
        lambda net, x: checkpoint(net, x, use_reentrant=False),
    ),
    "one in another, reentrant": (
        lambda b, x: checkpoint(b, x, use_reentrant=True),
        lambda net, x: checkpoint(net, x, use_reentrant=True),
    ),
    "past the network's forward": (
        lambda b, x: checkpoint(b, x, use_reentrant=False),
        lambda net, x: net.model(x),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_and_statistics_are_those_without_a_checkpoint(way: str) -> None:
    net = made()
    again = copy.deepcopy(net)
    how, forward = WAYS[way]
    if how is not None:
        again.model.how = how
    same(result(again, forward), result(net, plain))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_function_may_switch_by_itself(reentrant: bool) -> None:
    net = made()
    again = copy.deepcopy(net)

    def in_two_modes(net: QuantizableNetwork, x: Tensor) -> Tensor:
        with net.at_bits(2):
            low = net(x)
        return low + net(x)

    wanted = result(net, in_two_modes)
    found = result(again, lambda n, x: checkpoint(in_two_modes, n, x, use_reentrant=reentrant))
    same(found, wanted, rtol=1e-5)  # a reentrant one adds gradients up in another order
