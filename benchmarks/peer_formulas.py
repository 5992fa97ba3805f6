"""A training step in several modes as AdaBits and Any-Precision write it: their formulas, one operation each.

The baseline of ``gpu.py``: what a step costs if the published formulas are written down as they stand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from steps import Case, Setting, Step, make_batch, make_network, sgd
from torch import Tensor, nn


class Round(torch.autograd.Function):
    """Rounding with the straight-through estimator."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def any_precision_weight(weight: Tensor, bits: int) -> Tensor:
    """Yu et al., "Any-Precision Deep Neural Networks", AAAI 2021, sec. 3: DoReFa times the mean size."""
    steps = 2**bits - 1
    squashed = torch.tanh(weight)
    unit = squashed / (2 * squashed.abs().max()) + 0.5
    return (2 * Round.apply(unit * steps) / steps - 1) * weight.abs().mean().detach()


def any_precision_activation(x: Tensor, bits: int, clip: Tensor) -> Tensor:
    """The same: clamped to [0, 1]."""
    steps = 2**bits - 1
    return Round.apply(x.clamp(0, 1) * steps) / steps


def adabits_weight(weight: Tensor, bits: int) -> Tensor:
    """Jin et al., "AdaBits", CVPR 2020, eq. 8, and the rescaling of SAT (eq. 7): floor, clamp, rescale."""
    levels = 2**bits
    squashed = torch.tanh(weight)
    unit = squashed / (2 * squashed.abs().max()) + 0.5
    floored = unit * levels + (torch.floor(unit * levels).clamp(max=levels - 1) - unit * levels).detach()
    quantized = 2 * floored / (levels - 1) - 1
    fan_out = weight.shape[0] * weight[0, 0].numel()
    return quantized / (quantized.std() * math.sqrt(fan_out)).detach()


def adabits_activation(x: Tensor, bits: int, clip: Tensor) -> Tensor:
    """PACT with a clip per mode (AdaBits, sec. 3.3)."""
    steps = 2**bits - 1
    clipped = 0.5 * (x.abs() - (x - clip).abs() + clip)
    return Round.apply(clipped * steps / clip) * clip / steps


FORMULAS = {
    "any_precision": (any_precision_weight, any_precision_activation),
    "adabits": (adabits_weight, adabits_activation),
}


class PeerLayer(nn.Module):
    """A convolution or linear layer on quantized operands, with a clip per mode."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, peer: str, modes: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self.quantize_weight, self.quantize_input = FORMULAS[peer]
        self.clips = nn.ParameterDict({str(bits): nn.Parameter(torch.tensor(8.0)) for bits in modes})
        self.bits = 32

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        if self.bits < 32:
            weight = self.quantize_weight(weight, self.bits)
            x = self.quantize_input(x, self.bits, self.clips[str(self.bits)])
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


class PeerNorm(nn.Module):
    """One batch norm per mode."""

    def __init__(self, norm: nn.BatchNorm2d, modes: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({str(bits): nn.BatchNorm2d(norm.num_features) for bits in modes})
        self.bits = 32
        self.rest = nn.Sequential(getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity()))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.norms[str(self.bits)](x))


def convert(network: nn.Module, peer: str, modes: Sequence[int]) -> nn.Module:
    """Every convolution, linear layer and batch norm replaced, but the first and the last layer."""
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, module in list(network.named_modules()):
        parent = network.get_submodule(name.rpartition(".")[0])
        key = name.rpartition(".")[2]
        if isinstance(module, nn.BatchNorm2d):
            setattr(parent, key, PeerNorm(module, modes))
        elif name in names[1:-1]:
            setattr(parent, key, PeerLayer(module, peer, modes))
    return network


def peer_step(peer: str, case: Case, setting: Setting, modes: Sequence[int]) -> Step:
    """All modes from the highest down, their losses as the peer teaches them, and one optimizer step.

    AdaBits: labels in every mode. Any-Precision: labels in the highest, each other one by the mode above it.
    """
    network = setting.place(convert(make_network(case, setting), peer, modes)).train()
    switched = [m for m in network.modules() if isinstance(m, PeerLayer | PeerNorm)]
    images, labels = make_batch(case, setting)
    optimizer = sgd(network)

    def step() -> None:
        teacher: Tensor | None = None
        for bits in sorted(modes, reverse=True):
            for module in switched:
                module.bits = bits
            with setting.autocast():
                output = network(images).float()
            if teacher is None or peer == "adabits":
                loss = F.cross_entropy(output, labels)
            else:
                loss = F.cross_entropy(output, teacher)
            loss.backward()
            teacher = output.detach().softmax(1)
        optimizer.step()
        optimizer.zero_grad()

    return step
