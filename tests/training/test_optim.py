"""Parameter groups, learning-rate schedules and the settings that are refused."""

import math

import pytest
import torch
from torch import nn

from quantizable import quantize
from quantizable.quantizers import Quantizer
from quantizable.training.optim import (
    OptimizerConfig,
    configure,
    parameter_groups,
    positive_parameters,
    schedule,
    step_sizes_in_bounds,
)
from tests.tiny import TinyCNN


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = schedule(config, optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_only_weights_decay_and_only_quantizers_have_their_own_rate() -> None:
    network = quantize(TinyCNN(), [2, 4, 32])
    config = OptimizerConfig(lr=0.1, weight_decay=0.01, quantizer_lr=0.5)
    groups = {group["name"]: group for group in parameter_groups(network, config)}
    learned = {id(p) for m in network.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    assert {id(p) for p in groups["quantizers"]["params"]} == learned
    assert all(p.ndim > 1 for p in groups["weights"]["params"])
    assert {id(p) for group in groups.values() for p in group["params"]} == {
        id(p) for p in network.parameters()
    }
    made = configure(config, [*groups.values()], 10)["optimizer"].param_groups
    decay = {group["name"]: (group["weight_decay"], group["lr"]) for group in made}
    assert decay == {"weights": (0.01, 0.1), "norms": (0.0, 0.1), "quantizers": (0.0, 0.05)}


def test_frozen_parameters_are_left_out() -> None:
    network = quantize(TinyCNN(), [2, 32])
    network.fc.weight.requires_grad_(False)
    listed = {id(p) for g in parameter_groups(network, OptimizerConfig()) for p in g["params"]}
    assert id(network.fc.weight) not in listed


def test_cosine() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert rates(OptimizerConfig(lr=0.1), 20) == pytest.approx(expected)


def test_linear_falls_evenly_to_zero() -> None:
    assert rates(OptimizerConfig(lr=0.1, schedule="linear"), 4) == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_multistep_divides_by_ten_at_the_milestones() -> None:
    expected = [0.1] * 10 + [0.01] * 5 + [0.001] * 5
    assert rates(OptimizerConfig(lr=0.1, schedule="multistep"), 20) == pytest.approx(expected)


def test_constant() -> None:
    assert rates(OptimizerConfig(lr=0.1, schedule="constant"), 5) == pytest.approx([0.1] * 5)


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_warmup_grows_linearly_and_the_schedule_follows() -> None:
    seen = rates(OptimizerConfig(lr=0.1, warmup=0.25), 20)
    assert seen[:5] == pytest.approx([0.1 * (1e-3 + (1 - 1e-3) * step / 5) for step in range(5)])
    assert seen[5:] == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)])
    steps = rates(OptimizerConfig(lr=0.1, warmup=0.1, schedule="multistep"), 20)
    assert steps[9] == pytest.approx(0.1)
    assert steps[10] == pytest.approx(0.01)  # half of the run, warm-up included


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0}, "lr=0 is not allowed; it must be greater than 0"),
        ({"lr": -1.0}, "greater than 0"),
        ({"lr": float("nan")}, "greater than 0"),
        ({"lr": "fast"}, "lr='fast' is not a number"),
        ({"weight_decay": -0.1}, "at least 0"),
        ({"momentum": 1.0}, r"in \[0, 1\)"),
        ({"quantizer_lr": 0.0}, "greater than 0"),
        ({"warmup": 1.0}, r"in \[0, 1\)"),
        ({"schedule": "banana"}, "cosine, linear, multistep or constant"),
        ({"name": "banana"}, "name='banana' is not allowed; it must be an optimizer of timm"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**setting)  # type: ignore[arg-type]


def test_sgd_without_momentum_is_plain() -> None:
    config = OptimizerConfig(lr=0.1, momentum=0.0, weight_decay=0.0)
    weight = nn.Parameter(torch.ones(1))
    optimizer = configure(config, [{"params": [weight]}], 5)["optimizer"]
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lookahead_adamw", "rmsprop"])
def test_optimizers_of_timm(name: str) -> None:
    config = OptimizerConfig(name)
    groups = parameter_groups(quantize(TinyCNN(), [2, 32]), config)
    assert isinstance(configure(config, groups, 5)["optimizer"].param_groups, list)


@pytest.mark.parametrize("quantizer", ["lsq", "lsq_plus", "pact", "nested"])
def test_a_step_changes_a_step_size_by_at_most_a_tenth(quantizer: str) -> None:
    network = quantize(TinyCNN(), [2, 4, 32], quantizer=quantizer)
    images = torch.randn(4, 3, 8, 8)
    network.calibrate([images])
    network.set_bits(2)
    network(images).square().sum().backward()
    learned = {
        name: p
        for name, p in network.named_parameters()
        if name.endswith((".scale", ".alpha")) and p.grad is not None
    }
    assert learned
    before = {name: p.detach().clone() for name, p in learned.items()}
    for count, p in enumerate(network.parameters()):
        if p.grad is not None:
            p.grad.fill_((-1) ** count * 1e-3 if count % 3 else 1e6)
    asked = {name: before[name] - p.grad for name, p in learned.items()}
    weight = network.fc.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with step_sizes_in_bounds(positive_parameters(network), optimizer):
        optimizer.step()
    assert not torch.equal(network.fc.weight, weight)
    moved = []
    for name, p in learned.items():
        within = asked[name].clamp(before[name] * 0.9, before[name] * 1.1)
        torch.testing.assert_close(p.detach(), within)
        moved.append(torch.equal(within, asked[name]))
    assert not all(moved)


def test_an_outlier_among_the_gradients_does_not_kill_a_layer() -> None:
    """What happened to a 2-bit ResNet-20: a step size below zero never came back."""
    network = quantize(nn.Linear(8, 4), [4, 32], first_last="mode")
    x = torch.rand(64, 8)
    network.calibrate([x])
    network.set_bits(4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    target = network(x).detach()
    for step in range(300):
        optimizer.zero_grad()
        (network(x) - target).square().mean().backward()
        if step == 5:
            network.model.input_quantizer.level(4).scale.grad += 100.0  # a step to about -50
        with step_sizes_in_bounds(positive_parameters(network), optimizer):
            optimizer.step()
    assert (network(x) - target).abs().max() < 0.2


@pytest.mark.parametrize("warmup", [0.0, 0.02])
@pytest.mark.parametrize("outlier", [1e2, 1e6])
def test_an_outlier_in_the_first_step_is_forgotten(warmup: float, outlier: float) -> None:
    """The first rate of a warm-up is a thousandth of the highest: what it lets pass, momentum would keep."""
    network = quantize(nn.Linear(8, 4), [4, 32], first_last="mode")
    x = torch.rand(64, 8)
    network.calibrate([x])
    network.set_bits(4)
    target = network(x).detach()
    config = OptimizerConfig(lr=0.01, warmup=warmup)
    made = configure(config, parameter_groups(network, config), 1056)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    scale = network.model.input_quantizer.level(4).scale
    first = float(scale)
    for step in range(100):
        optimizer.zero_grad()
        (network(x) - target).square().mean().backward()
        if step == 0:
            scale.grad.fill_(outlier)
        with step_sizes_in_bounds(positive_parameters(network), optimizer):
            optimizer.step()
        scheduler.step()
    assert 0.8 * first < float(scale) < 1.2 * first


@pytest.mark.parametrize("start", [-0.01, 0.0])
def test_a_step_size_that_is_not_positive_grows_again(start: float) -> None:
    network = quantize(nn.Linear(8, 4), [4, 32], first_last="mode")
    network.calibrate([torch.rand(64, 8)])
    network.set_bits(4)
    scale = network.model.input_quantizer.level(4).scale
    scale.data.fill_(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(200):
        scale.grad = torch.tensor(-1.0)
        with step_sizes_in_bounds(positive_parameters(network), optimizer):
            optimizer.step()
    assert 0.05 < float(scale) < 1  # 1e-9 * 1.1^200 = 0.19


def test_an_overflow_in_float16_is_left_to_the_gradient_scaler() -> None:
    network = quantize(nn.Linear(8, 4), [4, 32], first_last="mode")
    network.calibrate([torch.rand(64, 8)])
    scale = network.model.input_quantizer.level(4).scale
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(scale.sum()).backward()
    scale.grad.fill_(math.inf)
    before = scale.detach().clone()
    with step_sizes_in_bounds(positive_parameters(network), optimizer, gradient_scale=scaler.get_scale()):
        scaler.step(optimizer)
    scaler.update()
    assert scale.equal(before)
    assert scaler.get_scale() == 512


def test_bounds_know_the_loss_scale_of_float16() -> None:
    moved = []
    for scale in (1.0, 65536.0):
        torch.manual_seed(0)
        network = quantize(nn.Linear(8, 4), [4, 32], first_last="mode")
        x = torch.rand(16, 8)
        network.calibrate([x])
        network.set_bits(4)
        (network(x).square().mean() * scale).backward()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        with step_sizes_in_bounds(positive_parameters(network), optimizer, gradient_scale=scale):
            for p in network.parameters():  # as a gradient scaler does when it steps
                if p.grad is not None:
                    p.grad /= scale
            optimizer.step()
        moved.append([p.detach().clone() for p in network.parameters()])
    for plain, scaled in zip(*moved, strict=True):
        torch.testing.assert_close(plain, scaled)
