"""Which layers can go wrong in an integer kernel that adds two products in int16 with saturation.

``vpmaddubsw`` computes ``clip(a[i] w[i] + a[j] w[j], -32768, 32767)`` of unsigned codes ``a`` and signed
weights ``w``. Which two products of an output channel meet depends on the kernel's memory layout. So a layer
is safe only if no two of them can leave the range, whatever the codes are.
"""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST = -32768, 32767  # of int16


def largest_pair(weights: np.ndarray, highest_code: int) -> tuple[int, int]:
    """The lowest and the highest sum of two products that any two weights of one output channel can give.

    Args:
        weights: integers ``[channels, ...]``; all but the first axis are summed over.
        highest_code: largest unsigned code of the input, 0 to 255; the lowest is 0 or more.
    """
    rows = weights.reshape(len(weights), -1).astype(np.int64)
    rows = np.pad(rows, ((0, 0), (1, 1)))  # a kernel pads an odd number of products by zeros
    top = np.partition(rows, -2, axis=1)[:, -2:].clip(min=0).sum(1)
    bottom = np.partition(rows, 1, axis=1)[:, :2].clip(max=0).sum(1)
    return int(bottom.min()) * highest_code, int(top.max()) * highest_code


def can_saturate(weights: np.ndarray, highest_code: int) -> bool:
    """True if some input makes a pair of products leave int16; arguments as of :func:`largest_pair`."""
    low, high = largest_pair(weights, highest_code)
    return low < LOWEST or high > HIGHEST


def headroom(weights: np.ndarray, highest_code: int) -> int:
    """By how many bits the weights can be moved up within int8 without a pair that saturates, 0 to 7."""
    shift = 0
    while shift < 7:
        moved = weights.astype(np.int64) << (shift + 1)
        if moved.min(initial=0) < -128 or moved.max(initial=0) > 127 or can_saturate(moved, highest_code):
            break
        shift += 1
    return shift
