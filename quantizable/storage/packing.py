"""Integers of a few bits stored in exactly that many bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack(codes: Tensor, low: int, bits: int) -> Tensor:
    """The codes as a stream of ``bits`` bits each, most significant bit first.

    Args:
        codes: integers in ``[low, low + 2^bits - 1]``, any shape.
        low: the code that is stored as 0.
        bits: 1 to 16.

    Returns:
        uint8, ``[ceil(codes.numel() * bits / 8)]``; the last byte is filled up with zeros.

    Raises:
        ValueError: a code is out of range.
    """
    values = codes.flatten().to(torch.int64).numpy() - low
    if values.size and not (values.min() >= 0 and values.max() < 1 << bits):
        raise ValueError(
            f"codes {values.min() + low}..{values.max() + low} do not fit {bits} bits from {low} on"
        )
    as_bytes = values.astype(">u2").view(np.uint8).reshape(-1, 2)
    planes = np.unpackbits(as_bytes, axis=1)[:, 16 - bits :]  # [codes, bits]
    return torch.from_numpy(np.packbits(planes.reshape(-1)))


def unpack(packed: Tensor, shape: tuple[int, ...], low: int, bits: int) -> Tensor:
    """The int32 codes of the given shape that :func:`pack` packed.

    Raises:
        ValueError: there are not as many bytes as the shape needs.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if packed.numel() != -(-count * bits // 8):
        raise ValueError(f"{packed.numel()} bytes do not hold {count} codes of {bits} bits")
    planes = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    padded = np.zeros((count, 16), np.uint8)
    padded[:, 16 - bits :] = planes
    values = np.packbits(padded, axis=1).view(">u2").astype(np.int32).reshape(shape)
    return torch.from_numpy(values + low)
