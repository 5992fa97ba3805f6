"""Reconstruction: every mode comes closer to the float one, which stays as it is; a stop costs one pass."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import quantizable
from quantizable import QuantizableNetwork, quantize
from quantizable.nn.blocks import named_blocks
from quantizable.quantizers import LSQWeight
from quantizable.storage.qz import save_qz
from quantizable.storage.save import save_checkpoint
from quantizable.training import reconstruction
from quantizable.training.own_parts import OwnSteps, Part, own_parts
from tests.small_net import SIZE, SmallNet, images, make, trained_like
from tests.tiny import same

__all__ = ["images", "make"]
MODES = (2, 4, 8, 32)


def colored(count: int) -> Tensor:
    """Images that differ in their means, so that pooling leaves a difference."""
    return torch.randn(count, SIZE[0], 1, 1) + torch.randn(count, *SIZE)


@pytest.fixture
def batches() -> list[Tensor]:
    return [*colored(64).split(16)]


@pytest.fixture
def network(make: Callable[..., QuantizableNetwork], batches: list[Tensor]) -> QuantizableNetwork:
    network = make(bits=MODES)
    network.calibrate(batches)
    return network


@torch.no_grad()
def error(network: QuantizableNetwork, mode: int, x: Tensor) -> float:
    with network.at_bits(32):
        wanted = network(x)
    with network.at_bits(mode):
        return float((network(x) - wanted).square().mean())


@torch.no_grad()
def distance(network: QuantizableNetwork, mode: int, x: Tensor) -> float:
    """Of all blocks from those of mode 32, written out."""
    outputs: dict[int, list[Tensor]] = {32: [], mode: []}
    hooks = [
        block.register_forward_hook(lambda *seen: outputs[int(str(network.bits))].append(seen[2]))
        for block in named_blocks(network.model).values()
    ]
    for bits in outputs:
        with network.at_bits(bits):
            network(x)
    for hook in hooks:
        hook.remove()
    return sum(
        float((a - b).square().mean() / b.var()) for a, b in zip(outputs[mode], outputs[32], strict=True)
    )


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_every_mode_comes_closer_and_mode_32_stays_bit_for_bit(
    network: QuantizableNetwork, batches: list[Tensor]
) -> None:
    others = colored(32)
    with torch.no_grad():
        before = network(others)
    x, held = torch.cat(batches), state(network)
    measures = [(distance, x), (distance, others), (error, x)]  # of images it was not fitted to, too
    off = {mode: [measure(network, mode, images) for measure, images in measures] for mode in (2, 4, 8)}
    network.reconstruct(batches, passes=10)
    for mode in (2, 4, 8):
        now = [measure(network, mode, images) for measure, images in measures]
        assert all(after < before for after, before in zip(now, off[mode], strict=True)), (mode, now, off)
    assert distance(network, 2, others) < 0.8 * off[2][1]
    assert error(network, 2, x) < 0.5 * off[2][2]
    with torch.no_grad():
        assert torch.equal(network(others), before)
    moved = {
        name for name, value in network.state_dict().items() if not torch.equal(value, held.get(name, value))
    }
    assert all(".levels." in name or ".norms." in name for name in moved), "no weight, no bias"
    assert not any(".norms.32." in name for name in moved)
    assert str(network.bits) == "32"
    assert not any(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_a_mode_learns_the_same_whatever_others_do(
    network: QuantizableNetwork, batches: list[Tensor]
) -> None:
    """The first and the last layer have 8 bits in every mode: what two modes use stays."""
    x, together = torch.cat(batches), copy.deepcopy(network)
    together.reconstruct(batches, passes=2)
    with torch.no_grad():
        before = {mode: network(x) for mode in MODES if not network.set_bits(mode)}
    network.reconstruct(batches, modes=[4], passes=2)
    with torch.no_grad():
        for mode in MODES:
            network.set_bits(mode)
            assert torch.equal(network(x), before[mode]) == (mode != 4)
        network.set_bits(4)
        together.set_bits(4)
        assert torch.equal(network(x), together(x))


def test_a_mode_that_comes_no_closer_is_left_as_it_was(
    network: QuantizableNetwork, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, four = state(network), network.check_mode(4)
    off = reconstruction._off
    worse = itertools.count()  # with each look, of mode 4 alone
    monkeypatch.setattr(reconstruction, "_off", lambda *given: {**off(*given), four: float(next(worse))})
    network.reconstruct(batches, passes=4)
    moved = {name for name, value in network.state_dict().items() if not same_value(begun.get(name), value)}
    assert any(".norms.2." in name for name in moved)
    assert not any(".norms.4." in name or ".levels.4." in name for name in moved)


def same_value(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and torch.equal(one, other)


@pytest.mark.parametrize("learned", [0, 1])
def test_seeds_and_a_run_that_was_stopped(
    learned: int,
    network: QuantizableNetwork,
    batches: list[Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped when weights were rounded and so many passes learned."""
    twins = [copy.deepcopy(network) for _ in range(4)]
    begun, file = state(network), tmp_path / "progress.pt"
    for twin, seed in zip(twins, (0, 0, 1), strict=False):
        twin.reconstruct(batches, passes=2, seed=seed)
    assert same(state(twins[0]), state(twins[1]))
    assert not same(state(twins[0]), state(twins[2]))

    write = reconstruction.Kept.write

    def stopped(self: Any, steps: Any = None) -> None:
        write(self, steps)
        if (0 if steps is None else steps.taken) == learned * len(batches):
            raise KeyboardInterrupt

    monkeypatch.setattr(reconstruction.Kept, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        network.reconstruct(batches, passes=2, progress=file)
    assert same(begun, state(network)), "a mode that is half learned is no mode"
    monkeypatch.setattr(reconstruction.Kept, "write", write)
    monkeypatch.setattr(reconstruction, "round_weights", None)  # that is done
    visits = []
    visit = reconstruction._visit
    monkeypatch.setattr(reconstruction, "_visit", lambda *given: visits.append(visit(*given)))
    twins[3].reconstruct(batches, passes=2, progress=file)
    assert len(visits) == (2 - learned) * len(batches), "all that was left of two passes"
    assert same(state(twins[3]), state(twins[0]))


def test_a_file_of_another_run_is_refused(
    network: QuantizableNetwork, batches: list[Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "progress.pt"
    copy.deepcopy(network).reconstruct(batches, passes=1, progress=file)
    begun = state(network)
    with pytest.raises(ValueError, match="begun with other batches, seed; name another file"):
        network.reconstruct([x + 1 for x in batches], passes=1, seed=1, progress=file)
    with pytest.raises(ValueError, match="begun with other network"):
        quantize_small().reconstruct(batches, passes=1, progress=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="holds no progress of a reconstruction"):
        network.reconstruct(batches, passes=1, progress=file)
    assert same(state(network), begun)


def quantize_small(bits: tuple = MODES, **options: Any) -> QuantizableNetwork:
    network = quantize(trained_like(SmallNet()), bits, **options).eval()
    network.calibrate([torch.randn(8, *SIZE)])
    return network


def test_what_cannot_be_done_is_said_in_one_line(batches: list[Tensor]) -> None:
    network = quantize_small()
    nothing = quantize_small(quantizer="dorefa", norms="shared")
    refused = [
        (quantize_small((4, 8)), {}, "compares with mode 32, which the network lacks .its highest is 8"),
        (quantize(SmallNet(), MODES), {}, "no step size yet"),
        (network, {"passes": -1}, "passes is -1"),
        (network, {"batches": 0}, "batches is 0"),
        (network, {"modes": [32]}, "mode 32 is what the others are compared with"),
        (network, {"modes": [3]}, "has no mode 3"),
        (nothing, {"modes": [2]}, "mode 2 has no step sizes and no norms of its own"),
    ]
    for given, options, said in refused:
        with pytest.raises(ValueError, match=said) as caught:
            given.reconstruct(batches, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the loader is empty"):
        network.reconstruct([])


@pytest.mark.parametrize("quantizer", ["lsq_plus", "nested", "pact", "dorefa"])
def test_other_quantizers_learn_what_they_have(quantizer: str, batches: list[Tensor]) -> None:
    network = quantize_small((4, 32), quantizer=quantizer)
    before = distance(network, 4, torch.cat(batches))
    network.reconstruct(batches, passes=4)
    assert distance(network, 4, torch.cat(batches)) < before


# -- roundings -------------------------------------------------------------------------------------


def test_a_correction_goes_wherever_the_mode_goes(
    network: QuantizableNetwork, batches: list[Tensor], tmp_path: Path
) -> None:
    weights = {name: value.clone() for name, value in network.to_float().state_dict().items()}
    network.reconstruct(batches, passes=2, modes=[2, 4])
    x = torch.cat(batches)
    with torch.no_grad():
        outputs = {mode: network(x) for mode in MODES if not network.set_bits(mode)}
    layer = network.block
    correction = layer.weight_quantizer.level(4).correction
    assert correction.abs().max() > 0
    assert layer.weight_quantizer.level(8).correction is None
    scale = layer.weight_quantizer.level(4).scale
    by_hand = ((layer.weight + correction) / scale).round().clamp(-8, 7).int()
    assert torch.equal(layer.weight_quantizer.codes(layer.weight, 4), by_hand)

    save_checkpoint(network, tmp_path / "model.ckpt")
    network.info |= {"model": None}
    save_qz(network, tmp_path / "model.qz")
    other = quantize_small()
    other.load_state_dict(network.state_dict())
    read = quantizable.load(tmp_path / "model.qz", SmallNet())
    again = quantizable.load(tmp_path / "model.ckpt", SmallNet())
    with torch.no_grad():
        for mode in MODES:
            for held in (other, copy.deepcopy(network), again, *([read] if mode != 32 else [])):
                held.set_bits(mode)
                torch.testing.assert_close(
                    held(x), outputs[mode], rtol=0, atol=0 if held is not read else 1e-5
                )
    assert same(network.to_float().state_dict(), weights)

    network.load_state_dict(weights)  # other weights: what was learned for these is gone
    assert layer.weight_quantizer.level(4).correction is None
    other.load_state_dict(quantize_small().state_dict())
    assert other.block.weight_quantizer.level(4).correction is None


def test_new_step_sizes_of_one_width_forget_its_roundings_alone() -> None:
    weight = torch.randn(4, 6)
    quantizer = LSQWeight(weight, [2, 4], axis=0)
    for bits in (2, 4):
        quantizer.level(bits).correction = nn.Parameter(torch.full_like(weight, 0.1))
    quantizer.refit(weight, [2])
    assert quantizer.level(2).correction is None
    assert quantizer.level(4).correction is not None


# -- parts and blocks ------------------------------------------------------------------------------


def test_steps_are_adams_in_units_of_each_part() -> None:
    """Against Adam written out; gradients of 1 and -1 and no decay but the linear one."""
    value = nn.Parameter(torch.tensor([2.0, -4.0]))
    steps = OwnSteps({"a": Part(value, torch.tensor([2.0, 4.0]), 0.1, -0.15, 0.15)}, 2)
    expected, first, second = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for taken, grads in enumerate([(1.0, -1.0), (3.0, -0.5)]):
        value.grad = torch.tensor(grads)
        steps.step()
        for i, (grad, unit) in enumerate(zip(grads, (2.0, 4.0), strict=True)):
            g = grad * unit
            first[i], second[i] = 0.9 * first[i] + 0.1 * g, 0.999 * second[i] + 0.001 * g * g
            corrected = (
                first[i] / (1 - 0.9 ** (taken + 1)) / ((second[i] / (1 - 0.999 ** (taken + 1))) ** 0.5 + 1e-8)
            )
            expected[i] = max(-0.15, min(0.15, expected[i] - 0.1 * (1 - taken / 2) * corrected))
    wanted = torch.tensor([2.0 + 2.0 * expected[0], -4.0 + 4.0 * expected[1]])
    torch.testing.assert_close(value.detach(), wanted, rtol=1e-5, atol=1e-6)
    steps.undo()
    assert value.tolist() == [2.0, -4.0]


def test_own_parts_are_those_of_no_other_mode(network: QuantizableNetwork) -> None:
    (parts,) = own_parts(network, [network.check_mode(4)]).values()
    names = {name.rpartition(".")[0] for name in parts}
    assert not any("stem.weight" in name or "head.weight" in name for name in names), "8 bits in mode 8, too"
    assert {"block.weight_quantizer.4", "block.input_quantizer.4", "block_norm.4"} <= {
        name.removeprefix("model.") for name in names
    }
    others = [p for mode in (2, 8, 32) for n, p in network.named_parameters() if f".norms.{mode}." in n]
    assert not {id(p) for p in others} & {id(part.value) for part in parts.values()}


def test_the_distance_is_the_sum_of_relative_errors() -> None:
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([[0.0], [4.0]])
    found = reconstruction.distance([first + 1, second], [first, second])
    assert float(found) == pytest.approx(1 / 2)  # of 1, 3 the variance is 2
    assert float(reconstruction.distance([second * 2], [second])) == pytest.approx((16 / 2) / 8)


def test_blocks_are_what_containers_hold() -> None:
    network = quantize(timm.create_model("resnet18", num_classes=4), [4, 32])
    blocks = [f"layer{stage}.{i}" for stage in range(1, 5) for i in range(2)]
    assert [*named_blocks(network.model)] == ["conv1", "bn1", *blocks, "fc"]

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = SmallNet()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    inside = [*named_blocks(quantize(Wrapped(), [4, 32]).model)]
    assert inside[:2] == ["net.stem", "net.stem_norm"]
