"""Multiply-accumulates of every part of a network, attention products too: one forward pass."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from quantizable.network import QuantizableNetwork
from quantizable.nn.layer_calls import Call, layer_calls
from quantizable.nn.passes import evaluating

PRODUCTS = ".products"
"""What the name of the attention products of a torch ``MultiheadAttention`` ends in."""
aten = torch.ops.aten


class Macs(NamedTuple):
    """Multiply-accumulates of one forward pass.

    Attributes:
        own: what each module multiplies itself, without the modules inside it, by name. The two products of
            a torch ``MultiheadAttention`` stand under ``NAME.products``, beside its projection; parts that
            multiply nothing are left out.
        calls: the shapes of each call of each module, by name.
        read: of ``own``, what has a float parameter for an operand: by module, then by the parameter's name.
    """

    own: dict[str, int]
    calls: dict[str, list[Call]]
    read: dict[str, dict[str, int]]


def count_macs(network: QuantizableNetwork, example: Any) -> Macs:
    """Multiply-accumulates and calls of every part of a network.

    The network runs in its lowest mode: float attention would skip the layers inside it. It is left as it is.

    Args:
        network: calibrated, trained or neither.
        example: one batch of inputs on the network's device, as ``calibrate`` reads them: ``[1, C, H, W]``,
            say.
    """
    model = network.model
    parts = dict(model.named_modules())
    counter = _Counter(model)
    with evaluating(network), network.at_bits(network.modes[0]), _single_products(model), counter:
        calls = layer_calls(model, parts, example)
    root = type(model).__name__
    flops = {
        name.partition(".")[2]: sum(by_kind.values())
        for name, by_kind in counter.get_flop_counts().items()
        if name.partition(".")[0] == root
    }
    own: dict[str, int] = {}
    for name, total in flops.items():
        macs = (total - sum(flops[child] for child in _outermost(name, flops))) // 2
        part = parts[name]
        if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
            projection = counter.of_matrices[name] // 2
            if macs > projection:
                own[name + PRODUCTS] = own.get(name + PRODUCTS, 0) + macs - projection
            macs = projection
        if macs:
            own[name] = own.get(name, 0) + macs
    read = {name: {p: n // 2 for p, n in found.items()} for name, found in counter.read.items()}
    return Macs(own, calls, read)


@contextmanager
def _single_products(model: nn.Module) -> Iterator[None]:
    """No fused attention, which the counter knows on some devices only, and no gradients."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter in trained:
            parameter.requires_grad_(True)


class _Counter(FlopCounterMode):
    """Counts beside all operations those with a parameter, and those with a matrix, by innermost module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(display=False, custom_mapping=MORE_FORMULAS)
        self.root = type(model).__name__
        self.parameters = {
            p.untyped_storage().data_ptr(): name for name, p in model.named_parameters() if p.numel()
        }
        self.read: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.of_matrices: dict[str, int] = defaultdict(int)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if func_packet in self.flop_registry:
            flops = self.flop_registry[func_packet](*args, **kwargs, out_val=out)  # type: ignore[operator]
            inside = [n for n in self.mod_tracker.parents if n.partition(".")[0] == self.root]
            module = max(inside, key=len, default=self.root).partition(".")[2]
            operands = [x for x in args if isinstance(x, Tensor) and x.dim() > 1]
            named = [self.parameters.get(x.untyped_storage().data_ptr()) for x in operands]
            for name in filter(None, named):
                self.read[module][name] += flops
                break  # a product has one weight
            if any(named) or func_packet in (aten.mm, aten.addmm) or any(map(_is_expanded, operands)):
                self.of_matrices[module] += flops
        return super()._count_flops(func_packet, out, args, kwargs)


def _recurrent_flops(x: torch.Size, weight_ih: torch.Size, weight_hh: torch.Size, *_: Any, **__: Any) -> int:
    """Of one layer and direction of an LSTM on ``x [T, N, F]``, the fused kernel of CPUs."""
    return 2 * x[0] * x[1] * (math.prod(weight_ih) + math.prod(weight_hh))


def _grouped_flops(left: torch.Size, right: torch.Size, *_: Any, **__: Any) -> int:
    """Of rows ``[T, K]``, each times one of several matrices ``[E, K, N]``: experts."""
    return 2 * math.prod(left) * right[-1]


MORE_FORMULAS = {aten.mkldnn_rnn_layer: _recurrent_flops, aten._grouped_mm: _grouped_flops}


def _is_expanded(x: Tensor) -> bool:
    """True for one matrix that stands for a batch of them."""
    return x.dim() > 2 and x.stride(0) == 0 and x.shape[0] > 1


def _outermost(name: str, flops: dict[str, int]) -> list[str]:
    """The counted modules inside one that are not inside another of them."""
    inside = {
        other for other in flops if other and other != name and (not name or other.startswith(f"{name}."))
    }
    return [one for one in inside if not any(one.startswith(f"{other}.") for other in inside)]
