"""Digests by which kept measurements are told apart: equal ones mean equal tensors, names and layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor

from quantizable.network import QuantizableNetwork
from quantizable.quantizers import Quantizer

DIGITS = 16  # hexadecimal, of SHA-256


def digest_tensors(tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> str:
    """Of values, shapes, types and order, and of the names in a mapping."""
    named = tensors.items() if isinstance(tensors, Mapping) else enumerate(tensors)
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def digest_network(network: QuantizableNetwork) -> str:
    """Of all parameters and buffers, norms of every mode included, and of the modules' kinds and options.

    Of the assignments that it holds, too: the same tensors run otherwise under another one.
    """
    tensors = digest_tensors(network.state_dict())
    return _with_modules(network, f"{tensors} {network.assignments}" if network.assignments else tensors)


def fingerprint(network: QuantizableNetwork) -> str:
    """Of what an assignment was found for: weights, step sizes and norms' parameters, but no statistics.

    Modes that ``add_mode`` added and statistics that were re-estimated change nothing.
    """
    added = tuple(f".norms.{mode.name}." for mode in network.added)
    stored = ((n, t) for n, t in network.named_buffers() if ".stored_" in n)  # of a .qz: no parameters
    own = {
        name: tensor
        for name, tensor in chain(network.named_parameters(), stored)
        if not any(mark in f"{name}." for mark in added)
    }
    return _with_modules(network, digest_tensors(own))


def _with_modules(network: QuantizableNetwork, tensors: str) -> str:
    digest = hashlib.sha256(tensors.encode())
    for name, module in network.model.named_modules():
        if not isinstance(module, Quantizer) and ".norms." not in f".{name}":
            options = re.sub(r"0x[0-9a-f]+", "", module.extra_repr())  # addresses of functions
            digest.update(f"{name} {type(module).__name__} {options};".encode())
    return digest.hexdigest()[:DIGITS]
