"""Gradients of layers that a checkpoint computes again, against those without one."""

import copy
import threading
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quantizable import QuantizableNetwork, quantize
from quantizable.nn import recomputation
from quantizable.training.recompute import recompute_activations

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


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-3 * rtol)


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


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timms_checkpoints_give_the_gradients_of_no_checkpoint(name: str) -> None:
    size = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2} if name.startswith("vit") else {}
    net = quantize(timm.create_model(name, num_classes=3, **size), MODES, attention=bool(size)).train()
    x = torch.randn(2, 3, 32, 32)
    net.calibrate([x])
    again = copy.deepcopy(net)
    recompute_activations(again)
    total: dict[str, Tensor] = {}
    for each in (net, again):
        with each.at_bits(4):
            loss = each(x).square().mean()
        with each.at_bits(2):
            loss = loss + each(x).square().mean()
        loss.backward()
        found = {n: p.grad for n, p in each.named_parameters() if p.grad is not None}
        found |= dict(each.named_buffers())
        total = total or found
        same(found, total)


def test_a_norm_of_all_modes_is_run_once_more_without_a_second_look() -> None:
    net = made(norms="shared")
    again = copy.deepcopy(net)
    again.model.how = lambda b, x: checkpoint(b, x, use_reentrant=False)
    same(result(again, plain), result(net, plain))


def test_backward_twice_and_gradients_of_gradients() -> None:
    net = made()
    again = copy.deepcopy(net)
    again.model.how = lambda b, x: checkpoint(b, x, use_reentrant=False)
    found = []
    for each in (net, again):
        weight = each.model.blocks[1][0].weight
        with each.at_bits(4):
            loss = each(inputs()).square().mean()
        first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
        each.set_bits(2)
        second = torch.autograd.grad(loss, weight, create_graph=True)[0]
        assert torch.equal(first, second)
        assert second.requires_grad
        third = torch.autograd.grad(second.sum(), each.fc.weight)[0]
        found.append(torch.cat([first.flatten(), third.flatten()]))
    assert torch.equal(*found)


def test_a_failed_backward_pass_leaves_no_mode_behind() -> None:
    net = made()
    net.model.how = lambda b, x: checkpoint(b, x, use_reentrant=False)
    x = inputs()
    with net.at_bits(2):
        out = net(x)
    x.register_hook(lambda grad: (_ for _ in ()).throw(MemoryError("no memory")))
    wanted = copy.deepcopy(net)(inputs())
    with pytest.raises(MemoryError):
        out.sum().backward()
    assert net.bits == 32
    assert torch.equal(net(inputs()), wanted)


@pytest.mark.slow
def test_a_compiled_graph_goes_backward_in_the_mode_that_it_was_made_in() -> None:
    torch._dynamo.reset()
    net = made()
    again = copy.deepcopy(net)
    again.model.how = lambda b, x: checkpoint(b, x, use_reentrant=False)
    for each, forward in ((again, torch.compile(again, backend="aot_eager")), (net, net)):
        losses = []
        for bits in (4, 2, 32):
            each.set_bits(bits)
            losses.append(forward(inputs()).square().mean())
        torch.stack(losses).sum().backward()
    for (name, parameter), other in zip(net.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    torch._dynamo.reset()


def test_torch_func_is_right_in_float_and_refused_where_it_cannot_be() -> None:
    net = made(norms="shared").eval()
    parameters, x = {n: p.detach() for n, p in net.named_parameters()}, inputs().detach()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x,)).square().mean()

    net(x).square().mean().backward()
    found = torch.func.grad(loss)(parameters)
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, msg=name)
    net.set_bits(2)
    with pytest.raises(RuntimeError, match="functorch"):  # torch's own line
        torch.func.grad(loss)(parameters)
    assert torch.equal(loss(parameters), net(x).square().mean())
    net.set_bits(4)  # the failed pass is over


def test_no_switch_while_a_forward_pass_runs() -> None:
    net = made()
    handle = net.model.blocks[1].register_forward_pre_hook(lambda *_: net.set_bits(2))
    with pytest.raises(RuntimeError, match="while a forward pass"):
        net(inputs())
    handle.remove()
    net.set_bits(2)  # and after it all is well
    net(inputs())
    entered, done = threading.Event(), threading.Event()
    net.model.blocks[0].register_forward_pre_hook(lambda *_: entered.set() or (done.wait(10) and None))
    runs = threading.Thread(target=net, args=(inputs().detach(),))
    runs.start()
    entered.wait(10)
    with pytest.raises(RuntimeError, match="another thread"):
        net.set_bits(4)
    done.set()
    runs.join()
    assert net.bits == 2


def test_what_cannot_be_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = made()
    net.model.how = lambda b, x: checkpoint(b, x, use_reentrant=False)
    out = net(inputs())
    thread = threading.Thread(target=lambda: net.set_bits(2))
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="several threads"):
        out.sum().backward()

    monkeypatch.setattr(recomputation, "KEPT", 3)
    net = copy.deepcopy(net)
    out = net(inputs())
    for bits in (2, 4, 8, 2, 4, 8):
        net.set_bits(bits)
        net(inputs())
    with pytest.raises(RuntimeError, match="more than 3 times"):
        out.sum().backward()
