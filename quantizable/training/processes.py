"""What the processes of a distributed run tell each other, beside what Lightning does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from quantizable.network import QuantizableNetwork


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, by one all-reduce of one flat tensor per type."""
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in grads}, key=str):  # in one order in every process
        same = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in same])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for grad, mean in zip(same, flat.split([g.numel() for g in same]), strict=True):
            grad.copy_(mean.view_as(grad))


def share_quantizers(network: QuantizableNetwork) -> None:
    """Every process takes the step sizes of the first, which saw other images."""
    states: list[Any] = [{n: q.state_dict() for n, q in network.quantizers().items()}]
    dist.broadcast_object_list(states, src=0)
    for name, quantizer in network.quantizers().items():
        quantizer.load_state_dict(states[0][name])
