"""Multiply-accumulates of every part of a network, attention products too: one forward pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from quantizable.calibrate import evaluating
from quantizable.network import QuantizableNetwork
from quantizable.nn.layer_calls import Call, layer_calls

PRODUCTS = ".products"
"""What the name of the attention products of a torch ``MultiheadAttention`` ends in."""


def count_macs(
    network: QuantizableNetwork, image: torch.Tensor
) -> tuple[dict[str, int], dict[str, list[Call]]]:
    """Multiply-accumulates and calls of every part of a network.

    The network runs in its lowest mode: float attention would skip the layers inside it. It is left as it is.

    Args:
        network: calibrated, trained or neither.
        image: ``[1, C, H, W]`` on the network's device.

    Returns:
        (what each module multiplies itself, without the modules inside it, by name; the shapes of each of its
        calls, by name). The two products of a torch ``MultiheadAttention`` stand under
        ``NAME.products``, beside its projection; parts that multiply nothing are left out of the first.
    """
    model = network.model
    parts = dict(model.named_modules())
    counter = FlopCounterMode(display=False)
    # the counter knows no fused attention; as single products it counts the same
    with evaluating(network), network.at_bits(network.modes[0]), sdpa_kernel(SDPBackend.MATH):
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with counter:
                calls = layer_calls(model, parts, image)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
    root = type(model).__name__
    flops = {
        name.partition(".")[2]: sum(by_kind.values())
        for name, by_kind in counter.get_flop_counts().items()
        if name.partition(".")[0] == root
    }
    macs = {}
    for name, total in flops.items():
        own = (total - sum(flops[child] for child in _outermost(name, flops))) // 2
        part = parts[name]
        if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
            projected = sum(call.given.numel() // part.embed_dim for call in calls[name])
            projection = projected * part.in_proj_weight.numel()
            macs[name + PRODUCTS], own = own - projection, projection
        if own:
            macs[name] = own
    return macs, calls


def _outermost(name: str, flops: dict[str, int]) -> list[str]:
    """The counted modules inside one that are not inside another of them."""
    inside = {
        other for other in flops if other and other != name and (not name or other.startswith(f"{name}."))
    }
    return [one for one in inside if not any(one.startswith(f"{other}.") for other in inside)]
