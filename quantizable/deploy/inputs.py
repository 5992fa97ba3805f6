"""What a deployed network is given: arrays of the shape and the type that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def input_array(values: Any, size: tuple[int, ...], ids: int = 0) -> np.ndarray:
    """A batch as the engines take it, float32 or of ids int64, ``[N, *size]``.

    Args:
        values: an array or a tensor.
        size: shape of one input.
        ids: how many ids there are, where inputs are such; 0: inputs are numbers.

    Raises:
        ValueError: another shape or type, values that are not finite, or ids that there are not.
    """
    what = "images" if len(size) == 3 else "inputs"
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    array = np.asarray(values)
    if array.ndim != 1 + len(size) or array.shape[1:] != tuple(size) or not len(array):
        wanted = ", ".join(map(str, size))
        raise ValueError(
            f"{what} of shape {list(array.shape)} do not fit; the network takes [N, {wanted}], N >= 1"
        )
    if ids:
        if array.dtype.kind not in "iu":
            raise ValueError(f"{what} are {array.dtype}; give ids, integers from 0 to {ids - 1}")
        if array.min() < 0 or array.max() >= ids:
            raise ValueError(f"ids reach from {array.min()} to {array.max()}; there are those below {ids}")
        return np.ascontiguousarray(array, np.int64)
    if array.dtype.kind != "f":
        raise ValueError(f"{what} are {array.dtype}; give floats, normalized as in training")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{what} have NaN or infinite values")
    return array
