"""What rounding may change: noise as if every sum were rounded otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantizable.nn import QuantLayer
from quantizable.nn.operands import Operands

# Noise on what a quantizer reads, relative to its root mean square: what float32 sums round off, and what
# engines' own versions of softmax, normalization and the like are off by. Ten and three times what ONNX
# Runtime and OpenVINO were seen to be off by, with VNNI and on AVX2 alone.
NOISE, NOISE_OF_FUNCTIONS = 4e-6, 3e-5


@contextmanager
def rounding_noise(model: nn.Module, amount: float = NOISE, seed: int = 0) -> Iterator[None]:
    """Every activation quantizer reads its input with a little noise, as if sums were rounded otherwise.

    Args:
        model: with quantized layers, whose inputs are floats of any shape.
        amount: the most that is added to a value, relative to the root mean square of its tensor.
        seed: of the noise; the same passes get the same noise.
    """
    source = torch.Generator().manual_seed(seed)
    drawn_once = torch.empty(0)

    def noise_for(x: Tensor) -> Tensor:
        """Uniform in [-1, 1], a random cut of numbers drawn once: drawing takes as long as a layer."""
        nonlocal drawn_once
        if len(drawn_once) < 2 * x.numel():
            drawn_once = torch.empty(2 * x.numel()).uniform_(-1, 1, generator=source)
        start = int(torch.randint(len(drawn_once) - x.numel() + 1, (), generator=source))
        return drawn_once[start : start + x.numel()].view(x.shape).to(x)

    def disturb(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        root_mean_square = torch.linalg.vector_norm(args[0]) / max(args[0].numel(), 1) ** 0.5
        return (torch.add(args[0], noise_for(args[0]), alpha=amount * root_mean_square.item()), *args[1:])

    quantizers: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, QuantLayer):
            quantizers.append(module.input_quantizer)
        elif isinstance(module, Operands):
            quantizers += module.operands.values()
    handles = [quantizer.register_forward_pre_hook(disturb) for quantizer in quantizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
