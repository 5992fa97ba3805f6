"""One step of each scheme: the modes it visits, the gradient it takes, the optimizer steps it counts."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantizable import MultiModeModule, QuantizableNetwork, quantize
from quantizable.bits import BitMode
from quantizable.training.optim import OptimizerConfig
from quantizable.training.samplers import Only
from quantizable.training.schemes import SCHEMES, Scheme, get_scheme
from tests.tiny import CONF, TinyCNN, batches, loader, trainer

STILL = OptimizerConfig(lr=1e-12, weight_decay=0.0, momentum=0.0, schedule="constant")


class Recorder(MultiModeModule):
    """Notes the assignment of every visit and the gradients of every optimizer step."""

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        self.visited.append(copy.copy(self.network._assignment))
        return F.cross_entropy(output, batch[1])

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.visited: list[Any] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        named = self.network.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def network(bits: list[Any]) -> QuantizableNetwork:
    made = quantize(TinyCNN(), bits)
    made.calibrate(batches(1))
    return made.train()


def one_step(net: QuantizableNetwork, scheme: str | Scheme) -> Recorder:
    module = Recorder(copy.deepcopy(net), scheme, STILL)
    trainer(max_epochs=1, limit_train_batches=1).fit(module, loader(1))
    return module


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = teacher.softmax(1), student.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def joint(scheme: str, z: list[Tensor], y: Tensor) -> Tensor:
    """The loss of all visited modes as the papers write it; ``z`` from the highest mode to the lowest."""
    ce = [F.cross_entropy(logits, y) for logits in z]
    t = [logits.detach() for logits in z]
    below = range(1, len(z))
    if scheme in ("quantizable", "random_k"):
        return ce[0] + sum(ce[k] + kl(t[0], z[k]) for k in below)
    if scheme == "any_precision":
        return ce[0] + sum(-(t[k - 1].softmax(1) * z[k].log_softmax(1)).sum(1).mean() for k in below)
    if scheme == "cascade":
        return ce[0] + sum(ce[k] + 0.1 * sum(((z[k] - t[j]) ** 2).mean() for j in range(k)) for k in below)
    if scheme == "sandwich":
        return ce[0] + sum(0.5 * ce[k] + 0.5 * kl(t[k - 1], z[k]) for k in below)
    if scheme == "layerwise":
        return ce[0] + sum(0.5 * ce[k] + 0.5 * kl(t[0], z[k]) for k in below)
    return sum(ce[1:], ce[0])  # adabits, individual


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in ("double_rounding", "only")])
def test_the_gradient_is_that_of_the_joint_loss(name: str) -> None:
    net = network([4] if name == "individual" else [2, 3, 4, 32])
    module = one_step(net, name)
    assert len(module.gradients) == 1
    x, y = batches(1)[0]
    outputs = []
    for assignment in module.visited:
        net._switch(assignment)
        outputs.append(net(x))
    wanted = [p for n, p in net.named_parameters() if n in module.gradients[0]]
    expected = torch.autograd.grad(joint(name, outputs, y), wanted, allow_unused=True)
    for key, gradient in zip(
        [n for n, _ in net.named_parameters() if n in module.gradients[0]], expected, strict=True
    ):
        assert gradient is not None, key
        torch.testing.assert_close(module.gradients[0][key], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "visits"),
    [
        ("quantizable", ["32", "4", "3", "2"]),
        ("any_precision", ["32", "4", "3", "2"]),
        ("adabits", ["32", "4", "3", "2"]),
        ("cascade", ["32", "4", "3", "2"]),
        ("double_rounding", ["32", "4", "3", "2"]),
    ],
)
def test_every_mode_is_visited_once(name: str, visits: list[str]) -> None:
    module = one_step(network([2, 3, 4, 32]), name)
    assert [str(mode) for mode in module.visited] == visits
    assert str(module.bits) == "32"  # the highest mode again


def test_named_assignments_are_visited_after_the_modes_or_alone() -> None:
    net = network([2, 4, 32])
    net.add_assignment("found", {"*": 2}, default=4)
    beside = one_step(net, "quantizable").visited
    assert [getattr(visit, "name", None) for visit in beside] == ["32", "4", "2", "found"]
    alone = one_step(net, Scheme(sampler=Only(["found"])))
    assert [visit.name for visit in alone.visited] == ["found"]
    x, y = batches(1)[0]
    net.set_bits("found")
    names = [*alone.gradients[0]]
    assert names
    assert not [name for name in names if ".norms." in name and ".norms.found." not in name]
    gradients = torch.autograd.grad(F.cross_entropy(net(x), y), [net.get_parameter(name) for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(alone.gradients[0][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_mode_by_another_of_its_names_is_evaluated() -> None:
    module = one_step(network([4, 32]), Scheme(sampler=Only(["w4a4"])))
    assert (module.trained, module.evaluated) == (["4"], ["4", "32"])


def test_the_sandwich_visits_three() -> None:
    first, middle, last = one_step(network([2, 3, 4, 32]), "sandwich").visited
    assert (str(first), str(last)) == ("32", "2")
    assert str(middle) in ("3", "4")


def test_random_k_visits_the_highest_and_two_others() -> None:
    first, *others = one_step(network([2, 3, 4, 32]), "random_k").visited
    assert str(first) == "32"
    assert len({str(mode) for mode in others} & {"2", "3", "4"}) == len(others) == 2


def test_every_scheme_of_the_configuration_has_its_name_here() -> None:
    files = (CONF / "scheme").glob("*.yaml")
    assert {file.stem for file in files} == set(SCHEMES)


def test_layer_wise_steps_mix_modes_and_keep_the_fixed_layers() -> None:
    module = one_step(network([2, 3, 4, 32]), "layerwise")
    assert isinstance(module.visited[0], BitMode)
    assert len(module.visited) == 4
    assert all(isinstance(assignment, dict) for assignment in module.visited[1:])
    assert {layer.fixed_bits for layer in module.network.layers().values()} == {8, None}


def test_double_rounding_steps_after_each_mode() -> None:
    """Against a plain loop: SGD, one step per mode, step sizes damped by their own gradient."""
    net = quantize(TinyCNN(), [2, 4, 32], "nested")
    net.calibrate(batches(1))
    net.train()
    lr = 0.05
    settings = OptimizerConfig(lr=lr, weight_decay=0.0, momentum=0.0, schedule="constant")
    module = Recorder(copy.deepcopy(net), "double_rounding", settings)
    run = trainer(max_epochs=1, limit_train_batches=1)
    run.fit(module, loader(1))
    assert run.global_step == len(module.gradients) == 3

    x, y = batches(1)[0]
    scales = {id(p) for q in net.quantizers().values() for p in q.parameters()}
    for mode in (32, 4, 2):
        net.set_bits(mode)
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    change = lr * p.grad
                    if id(p) in scales:
                        change *= 1 - p.grad.abs().clamp(max=1).mean()
                        change = change.clamp(-0.1 * p, 0.1 * p)  # at most a tenth
                    p -= change
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(module.network.get_parameter(name), parameter, rtol=1e-4, atol=1e-6)


def test_schemes_refuse_what_they_cannot_train() -> None:
    with pytest.raises(ValueError, match="'banana' is unknown; choose from quantizable"):
        get_scheme("banana")
    with pytest.raises(ValueError, match=r"one mode, but the network has 2, 32.*bits=\[4\]"):
        MultiModeModule(network([2, 32]), "individual")
    with pytest.raises(ValueError, match="cannot accumulate"):
        MultiModeModule(network([2, 32]), "double_rounding", accumulate=2)
    mine = Scheme(step_per_mode=True)
    assert get_scheme(mine) is mine
