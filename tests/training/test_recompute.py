import pytest
import timm
import torch
from torch import Tensor

import quantizable
from quantizable.models.create import create_model
from quantizable.training.recompute import recompute_activations


def gradients(network: quantizable.QuantizableNetwork, images: Tensor) -> dict[str, Tensor]:
    """Of a step in two modes, one after the other."""
    network.zero_grad()
    for bits in (8, 2):
        network.set_bits(bits)
        network(images).square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_gradients_of_every_mode_are_those_without_recomputing() -> None:
    network = quantizable.quantize(timm.create_model("resnet10t", num_classes=3), bits=[2, 8]).train()
    images = torch.randn(2, 3, 32, 32)
    network.calibrate([images], batches=1)
    kept = gradients(network, images)
    calls = []
    network.model.layer4[0].conv1.register_forward_hook(lambda *_: calls.append(network.bits))
    recompute_activations(network)
    recomputed = gradients(network, images)
    assert calls == [8, 8, 2, 2]  # forward and again in backward, in the same mode
    assert kept.keys() == recomputed.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_network_that_cannot_says_so() -> None:
    with pytest.raises(ValueError, match="set_grad_checkpointing"):
        recompute_activations(create_model("resnet20", 10))
