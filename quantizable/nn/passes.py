"""How a network runs while data is looked at: in evaluation mode, or with the batch's own statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a ``with`` block; every module's flag is put back.

    A compiled network runs eagerly meanwhile: each batch that the quantizers keep would cost a graph,
    and at the eighth the compiler gives up, on the training that follows too.
    """
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def batch_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """These norms normalize by the batch for the length of a ``with`` block and remember nothing of it."""
    flags = [norm.training for norm in norms]
    kept = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm, flag, buffers in zip(norms, flags, kept, strict=True):
            norm.training = flag
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
