"""Weights quantized once per optimizer step: the same training, with fewer quantizations."""

import copy
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from quantizable import MultiModeModule, QuantizableClassifier, QuantizableNetwork, quantize
from quantizable.bits import BitMode
from quantizable.nn.kept_weights import KeptWeights
from quantizable.quantizers import QUANTIZERS, Quantizer
from quantizable.training.optim import OptimizerConfig
from quantizable.training.recompute import recompute_activations
from tests.tiny import TinyCNN, batches, loader, trainer

PLAIN = OptimizerConfig(lr=0.05, weight_decay=0.0, momentum=0.0, schedule="constant")


def calibrated(
    quantizer: str = "lsq", bits: tuple[Any, ...] = (2, 4, 32), **options: Any
) -> QuantizableNetwork:
    torch.manual_seed(0)
    net = quantize(TinyCNN(), bits, quantizer=quantizer, **options)
    net.calibrate(batches(4))
    return net.train()


def gradients(
    net: QuantizableNetwork, keeps: bool, visits: Sequence[Any] = (2, 4, 32), data: Any = None
) -> dict[str, Tensor]:
    """Of some batches in some modes, summed."""
    kept = KeptWeights(keeps)
    for x, y in data or batches(3):
        for visit in visits:
            net.set_layer_modes(visit) if isinstance(visit, dict) else net.set_bits(visit)
            with kept.used(net):
                F.cross_entropy(net(x), y).backward()
    kept.hand_on()
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return found


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max() + 1e-3))


@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
def test_gradients_are_those_of_every_batch_on_its_own(quantizer: str) -> None:
    net = calibrated(quantizer)
    assert_alike(gradients(net, True), gradients(net, False))


def test_gradients_with_step_sizes_per_channel_mixed_layers_and_a_frozen_weight() -> None:
    net = calibrated(per_channel=True, bits=(2, 4, "w4a8", 32))
    layers = list(net.layers())
    net.layers()[layers[1]].weight.requires_grad_(False)
    net.layers()[layers[2]].requires_grad_(False)
    mixed = {name: BitMode.parse((2, 4, "w4a8")[i % 3]) for i, name in enumerate(layers)}

    assert_alike(gradients(net, True, [mixed]), gradients(net, False, [mixed]))
    assert_alike(gradients(net, True, (2, "w4a8", 32)), gradients(net, False, (2, "w4a8", 32)))


def test_each_weight_is_quantized_once_a_mode_and_a_step() -> None:
    net, calls = calibrated(), Counter[int]()
    weights = {id(q) for layer in net.layers().values() for q in [layer.weight_quantizer]}
    called = Quantizer.forward

    def counted(self: Quantizer, *args: Any, **options: Any) -> Tensor:
        if id(self) in weights and self.active is not None:
            calls[self.bits] += 1
        return called(self, *args, **options)

    module = Regressor(net, optimizer=PLAIN, accumulate=3, keep_weights=True)
    with mock.patch.object(Quantizer, "forward", counted):
        trainer(max_epochs=1).fit(module, loader(6))
    # two steps; first and last layer at 8 bits in either mode, and quantized for both at once
    layers = len(weights)
    assert calls == {2: 2 * (layers - 2), 4: 2 * (layers - 2), 8: 2 * 2}


class Regressor(MultiModeModule):
    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output, batch[1])


def test_training_ends_with_the_same_weights() -> None:
    """Also where a validation between two batches puts averaged weights in their place, and back."""

    class Swap(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.held = [p.detach().clone() for p in module.parameters()]
            with torch.no_grad():
                for p in module.parameters():
                    p.mul_(0.5)

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            with torch.no_grad():
                for p, held in zip(module.parameters(), self.held, strict=True):
                    p.copy_(held)

    net, states = calibrated(), []
    for keeps, validates in product((False, True), (False, True)):
        module = Regressor(copy.deepcopy(net), optimizer=PLAIN, accumulate=4, keep_weights=keeps)
        options: dict[str, Any] = {"callbacks": [Swap()], "val_check_interval": 2} if validates else {}
        run = trainer(max_epochs=2, **options)
        run.fit(module, loader(6), loader(1) if validates else None)
        assert run.global_step == 4
        states.append(dict(module.network.named_parameters()))
    for state, (name, expected) in product(states[1:], states[0].items()):
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=5e-5)


def test_a_pruned_weight_is_made_anew_for_each_batch() -> None:
    net = calibrated()
    prune.random_unstructured(net.layers()["body.0"], "weight", 0.5)
    assert_alike(gradients(net, True), gradients(net, False))


def test_with_activation_checkpointing() -> None:
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2, embed_dim=24, num_heads=2
    )
    net = quantize(network, [2, 32])
    images = [(torch.randn(2, 3, 32, 32), torch.randint(0, 10, (2,))) for _ in range(2)]
    net.calibrate(images)
    recompute_activations(net.train())
    assert_alike(gradients(net, True, (2, 32), images), gradients(net, False, (2, 32), images))


def test_another_mode_inside_a_pass_does_not_take_the_kept_weights() -> None:
    net = calibrated()
    x, _ = batches(1)[0]
    with net.at_bits(4), torch.no_grad():
        expected = net.eval()(x)
    net.set_bits(2)
    with KeptWeights().used(net), net.at_bits(4), torch.no_grad():
        assert torch.equal(net(x), expected)
    net.set_bits(4)
    assert all(layer.kept_weight is None for layer in net.layers().values())


def test_a_run_that_broke_off_leaves_nothing_behind() -> None:
    class Breaks(Regressor):
        broken = True

        def loss(self, output: Tensor, batch: Any) -> Tensor:
            if self.broken and self.trainer.global_step == 0 and self.network.bits == 2:
                raise KeyError("no such column")
            return super().loss(output, batch)

    net = calibrated()
    module = Breaks(net, optimizer=PLAIN, accumulate=2, keep_weights=True)
    with pytest.raises(KeyError):
        trainer(max_epochs=1).fit(module, loader(2))
    assert all(layer.kept_weight is None for layer in net.layers().values())
    module.broken = False
    trainer(max_epochs=1).fit(module, loader(2))


def test_a_module_refuses_it_where_it_saves_nothing() -> None:
    with pytest.raises(ValueError, match="give accumulate above 1"):
        QuantizableClassifier(TinyCNN(), 10, (2, 32), keep_weights=True)


def test_a_compiled_network_is_refused() -> None:
    net = calibrated()
    net.model.compile()
    with pytest.raises(ValueError, match="do not compile"):
        trainer(max_epochs=1).fit(Regressor(net, accumulate=2, keep_weights=True), loader(2))


def test_a_linear_network_by_hand() -> None:
    """One weight, one batch twice: its gradient is twice that of the quantized weight, where not clipped."""
    net = quantize(nn.Sequential(nn.Linear(2, 1, bias=False)), [4, 32], first_last="mode")
    layer = net.layers()["0"]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, 50.0]]))
        layer.weight_quantizer.level(4).scale.fill_(1.0)
    net.calibrate([torch.tensor([[3.0, 1.0]])])
    net.set_bits(4)
    kept, x = KeptWeights(), torch.tensor([[3.0, 1.0]])
    for _ in range(2):
        with kept.used(net):
            net(x).sum().backward()
    assert layer.weight.grad is None
    kept.hand_on()
    quantized = layer.input_quantizer(x).detach()
    assert layer.weight.grad.tolist() == [[2 * quantized[0, 0].item(), 0.0]]  # 50 is beyond code 7
    kept.hand_on()  # nothing is left
    assert layer.weight.grad.tolist() == [[2 * quantized[0, 0].item(), 0.0]]
