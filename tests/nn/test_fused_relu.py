"""ReLUs that quantize for their reader, against torch's ReLU with a quantizer behind it, bit for bit."""

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from unittest import mock

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import quantizable
from quantizable.functional import DoneAtOnce, fake_quantize
from quantizable.kernels import loops
from quantizable.kernels.library import library
from quantizable.nn import fused_relu
from quantizable.nn.layers import QuantConv2d
from quantizable.quantizers import fused_relu as handover
from quantizable.quantizers.level import Level
from tests.kernels.test_loops import NO_LOOPS, same_bits, sample

pytestmark = pytest.mark.skipif(library(loops.same) is None, reason="no loops here: no g++, or switched off")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def tensor(seed: int, like: Tensor) -> Tensor:
    """Normal numbers in the order of ``like``."""
    return torch.empty_like(like).copy_(
        torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    )


Pair = Callable[[Tensor], tuple[Tensor, Tensor]]


def outcome(given: Tensor, scale: Tensor, pair: Pair, read_by_others: bool) -> list[Tensor | None]:
    """What a ReLU gives, that quantized, and the gradients of its input and of the step size."""
    x, scale.grad = given.clone().requires_grad_(), None
    relu, out = pair(x * 1)
    loss = (out * tensor(1, out)).sum()
    if read_by_others:
        loss = loss + (relu * tensor(2, relu)).sum()
    loss.backward()
    return [relu.detach(), out.detach(), x.grad, scale.grad]


def fused(level: Level, top: float, in_place: bool, in_product: bool) -> Pair:
    def pair(x: Tensor) -> tuple[Tensor, Tensor]:
        relu = handover.fused_relu(x, in_place, top, level, handover.Readers())
        assert (relu is x) is in_place
        done = handover.done_at_once(relu, level)
        assert done is not None
        quantized = done.out
        out = fake_quantize(relu, level.scale, None, 0, level.quant_max, 0.3, in_product, done=done)
        assert out is quantized
        return relu, out

    return pair


def one_by_one(level: Level, top: float, in_place: bool, in_product: bool) -> Pair:
    def pair(x: Tensor) -> tuple[Tensor, Tensor]:
        relu = nn.ReLU(in_place)(x) if top == torch.inf else nn.ReLU6(in_place)(x)
        return relu, fake_quantize(relu, level.scale, None, 0, level.quant_max, 0.3, in_product)

    return pair


@pytest.mark.parametrize("top", [torch.inf, 6.0])
@pytest.mark.parametrize("read_by_others", [False, True])
def test_one_relu(top: float, read_by_others: bool) -> None:
    """Step sizes whose largest code is below and above 6; others read the ReLU or nobody does."""
    for dtype, order, step in product((torch.float32, torch.bfloat16), FORMATS, (0.1, 1.7)):
        given = (3 * sample("activation")).to(dtype).contiguous(memory_format=FORMATS[order])
        level = Level(3, signed=False, scale=torch.tensor(step))
        for flags in product((False, True), (False, True)):
            found = outcome(given, level.scale, fused(level, top, *flags), read_by_others)
            with NO_LOOPS:
                expected = outcome(given, level.scale, one_by_one(level, top, *flags), read_by_others)
            alike = [same_bits(mine, torchs) for mine, torchs in zip(found, expected, strict=True)]
            assert alike == [True] * 4, (dtype, order, step, flags)


def test_gradient_of_a_gradient() -> None:
    level = Level(2, signed=False, scale=torch.tensor(0.4))

    def second(fused: bool) -> Tensor:
        x = torch.linspace(-1, 2, 31, requires_grad=True)
        relu = (
            handover.fused_relu(x * 1, False, 1.0, level, handover.Readers())
            if fused
            else (x * 1).clamp(0, 1)
        )
        done = handover.done_at_once(relu, level)
        assert (done is not None) is fused
        out = fake_quantize(relu, level.scale, None, 0, 3, done=done)
        (first,) = torch.autograd.grad((out**3 + relu**2).sum(), x, create_graph=True)
        return torch.autograd.grad((first**2).sum(), x)[0]

    with NO_LOOPS:
        expected = second(False)
    torch.testing.assert_close(second(True), expected)


@contextmanager
def counted() -> Iterator[list[bool]]:
    """Whether each quantizer that runs inside takes what a ReLU has done."""
    taken: list[bool] = []

    def noted(x: Tensor, level: Level) -> DoneAtOnce | None:
        done = done_at_once(x, level)
        taken.append(done is not None)
        return done

    done_at_once = handover.done_at_once
    with mock.patch.object(handover, "done_at_once", noted):
        yield taken


def calibrated(model: nn.Module, x: Tensor) -> quantizable.QuantizableNetwork:
    """Modes 2, 8 and 32, calibrated on ``x``, in training."""
    network = quantizable.quantize(model, bits=[2, 8, 32])
    network.calibrate([x])
    return network.train()


def results(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of all parameters that have one."""
    network.zero_grad()
    out = network(x)
    (out.square().mean() + out.sum()).backward()
    return [out.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("name", "fewest"), [("resnet20", 17), ("mobilenetv2_050", 30), ("resnet18", 15)])
def test_networks(name: str, fewest: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network = calibrated(timm.create_model(name, num_classes=5), x)
    plain = copy.deepcopy(network)  # a copy knows no readers
    for bits in (2, 8):
        network.set_bits(bits)
        plain.set_bits(bits)
        with counted() as taken:
            found = results(network, x)
        assert sum(taken) >= fewest
        with counted() as taken:
            expected = results(plain, x)
        assert not any(taken)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_types(dtype: torch.dtype) -> None:
    """The loops read step sizes as float32, which these are not."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    network = calibrated(timm.create_model("resnet20"), x).to(dtype)
    plain = copy.deepcopy(network)
    for one in (network, plain):
        one.set_bits(2)
    with counted() as taken:
        found = results(network, x.to(dtype))
    assert not any(taken)
    with NO_LOOPS:
        expected = results(plain, x.to(dtype))
    assert found[0].isfinite().all()
    torch.testing.assert_close(found, expected)


def test_a_step_frees_its_tensors() -> None:
    """Without Python's collector: what hangs in a circle stays, and the next step takes new memory."""
    x = torch.randn(2, 3, 32, 32)
    network = calibrated(timm.create_model("resnet20"), x)
    network.set_bits(2)
    tensors: list[weakref.ref[Tensor]] = []
    for module in network.modules():
        if isinstance(module, fused_relu.FusedActivation | QuantConv2d):
            module.register_forward_hook(lambda m, args, out: tensors.extend(map(weakref.ref, (*args, out))))
    gc.collect()
    gc.disable()
    try:
        with counted() as taken:
            network(x).sum().backward()
        assert any(taken)
        assert tensors
        assert not [1 for tensor in tensors if tensor() is not None and tensor() is not x]
    finally:
        gc.enable()


class TestWhoElseReadsIt:
    def network(self) -> tuple[quantizable.QuantizableNetwork, Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
        x = torch.randn(2, 3, 8, 8)
        network = calibrated(model, x)
        network.set_bits(2)
        return network, x

    def test_a_hook_sees_what_a_relu_gives(self) -> None:
        network, x = self.network()
        seen = {}
        convolution, relu = network.model[0], network.model[1]
        convolution.register_forward_hook(lambda m, args, out: seen.update(before=out.detach().clone()))
        relu.register_forward_hook(lambda m, args, out: seen.update(after=out.detach().clone()))
        with counted() as taken:
            network(x)
        assert sum(taken) == 1  # the other is flattened first
        assert torch.equal(seen["after"], seen["before"].relu())

    @pytest.mark.parametrize("in_place", [False, True])
    def test_what_a_hook_makes_of_it_is_quantized_anew(self, in_place: bool) -> None:
        network, x = self.network()

        def zeros(module: nn.Module, args: object, out: Tensor) -> Tensor | None:
            if not in_place:
                return out * 0
            with torch.no_grad():
                out.mul_(0)
            return None

        network.model[1].register_forward_hook(zeros)
        with counted() as taken:
            out = network(x)
        assert not any(taken)
        assert torch.equal(out[0], out[1])

    def test_a_mode_that_is_switched_between(self) -> None:
        network, x = self.network()
        network.model[1].register_forward_hook(
            lambda m, args, out: network.model[2].input_quantizer.set_bits(8)
        )
        with counted() as taken:
            network(x)
        assert not any(taken)

    @pytest.mark.parametrize("changed", [None, "new", "in place"])
    def test_who_asks_for_its_gradient(self, changed: str | None) -> None:
        """By retain_grad, torch.autograd.grad, or a hook that changes it."""
        network, x = self.network()
        plain = copy.deepcopy(network)

        def change(grad: Tensor) -> Tensor | None:
            if changed == "new":
                return grad + 1
            return None if grad.add_(1) is grad else grad

        found = []
        for one in (network, plain):
            features = one.model[:2](x)
            if changed:
                features.register_hook(change)
            features.retain_grad()
            loss = one.model[2:](features).square().sum()
            (alone,) = torch.autograd.grad(loss, features, retain_graph=True)
            loss.backward()
            assert features.grad is not None
            found.append([alone, features.grad, one.model[0].weight.grad])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))

    def test_one_reader_saves_the_relus_backward_pass(self) -> None:
        network, x = self.network()
        calls = []
        with mock.patch.object(
            handover, "threshold_backward", lambda *given: calls.append(given) or given[0]
        ):
            network.model[:3](x).sum().backward()
            assert calls == []
            features = network.model[:2](x)
            (network.model[2](features).sum() + features.sum()).backward()
            assert len(calls) == 1

    def test_it_is_saved_as_any_tensor(self) -> None:
        network, x = self.network()
        with torch.no_grad():
            features = network.model[:2](x)
        file = io.BytesIO()
        torch.save(features, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=True), features)
        assert torch.equal(copy.deepcopy(features), features)

    def test_frozen_layers_before_it(self) -> None:
        network, x = self.network()
        network.model[0].requires_grad_(False)
        plain = copy.deepcopy(network)
        found, expected = results(network, x), results(plain, x)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_a_relu_in_two_places_stays_as_it_is() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    network = calibrated(resnet18(num_classes=5), x)  # one in each block, called twice
    network.set_bits(2)
    with counted() as taken:
        results(network, x)
    assert sum(taken) == 1  # the first, in front of all blocks, goes through a pooling; the last as well
    assert all(m.readers.several for m in network.model.layer2.modules() if isinstance(m, fused_relu.ReLU))


@pytest.mark.filterwarnings("ignore:used at", "ignore:None of the inputs")
@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(calibrate: bool, reentrant: bool) -> None:
    """What is computed again saves what it saved before, also where the first batch sets the step sizes."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    convolutions = [nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3)]
    part = nn.Sequential(*(layer for c in convolutions for layer in (c, nn.BatchNorm2d(3), nn.ReLU(True))))

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.part, self.kept = nn.Conv2d(3, 3, 1), part, True

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            kept: Tensor = checkpoint(self.part, x, use_reentrant=reentrant) if self.kept else self.part(x)
            return kept.mean((2, 3))

    network = quantizable.quantize(Checkpointed(), bits=[2, 8, 32], first_last="mode")
    if calibrate:
        network.calibrate([x])
    else:
        with torch.no_grad():
            network(x)  # in mode 32: shows who reads what, and sets nothing
    network.train()
    plain = copy.deepcopy(network)
    plain.model.kept = False
    for _, bits in product(range(2), (8, 2)):
        network.set_bits(bits)
        plain.set_bits(bits)
        found, expected = results(network, x), results(plain, x)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_torchs_own_classes_come_back() -> None:
    model = timm.create_model("mobilenetv2_050", num_classes=5)
    network = quantizable.quantize(model, bits=[4, 32])
    assert {type(m) for m in network.modules()} & {nn.ReLU, nn.ReLU6} == set()
    back = network.to_float()
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert not any(hasattr(m, "readers") for m in back.modules())


def test_copies_know_noreaders() -> None:
    x = torch.randn(2, 3, 32, 32)
    network = calibrated(timm.create_model("resnet20"), x)

    def readers(network: nn.Module) -> int:
        return sum(
            m.readers.first is not None
            for m in network.modules()
            if isinstance(m, fused_relu.FusedActivation)
        )

    assert readers(network) == 18
    assert readers(copy.deepcopy(network)) == 0
    assert readers(pickle.loads(pickle.dumps(network))) == 0


def test_the_copies_of_a_norm_share_theirreaders() -> None:
    x = torch.randn(2, 3, 32, 32)
    network = calibrated(timm.create_model("mobilenetv2_050", num_classes=5), x)  # calibrated in one mode
    copies = network.model.bn1.norms.values()
    assert len({id(norm.act.readers) for norm in copies}) == 1
    assert len({id(norm.act) for norm in copies}) == len(network.modes)
