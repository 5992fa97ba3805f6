"""What a deployed network is given: arrays of the shapes and the types that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.storage.outputs import INPUT
from quantizable.storage.signature import BOOLEAN, BYTES, INTEGER, Arrays, Input, Signature, takes_one


def input_arrays(signature: Signature, given: Sequence[Any], named: Mapping[str, Any]) -> Arrays:
    """A batch as the engines take it, from the arguments of a call.

    Args:
        signature: what the network takes.
        given: arguments by position, in the signature's order; or one mapping from names to arguments.
        named: arguments by name.

    Raises:
        ValueError: an argument too many or too few, another shape or type, values that are not finite, ids
            that there are not, or batches of unequal sizes.
    """
    if len(given) == 1 and isinstance(given[0], Mapping):
        given, named = [], {**given[0], **named}
    values = dict(zip(signature, given, strict=False)) | dict(named)
    if len(given) > len(signature) or values.keys() != signature.keys():
        many = f"{len(given)} inputs" if len(given) > len(signature) else ""
        has = many or ", ".join(values) or "nothing"
        takes = ", ".join(signature)
        raise ValueError(f"the network takes {takes}; the call gives {has}")
    if takes_one(signature):
        return input_array(values[INPUT], signature[INPUT])
    arrays = {name: input_array(values[name], one, name) for name, one in signature.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"the inputs are batches of unequal sizes ({sizes})")
    return arrays


def input_array(values: Any, one: Input, name: str = "") -> np.ndarray:
    """One input, ``[N, *size]`` of its type.

    Args:
        values: an array or a tensor.
        one: what the network takes.
        name: of the input, for messages.

    Raises:
        ValueError: another shape or type, values that are not finite, or ids that there are not.
    """
    what = name or ("images" if len(one.size) == 3 else "inputs")
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    array = np.asarray(values)
    if array.ndim != 1 + len(one.size) or array.shape[1:] != one.size or not len(array):
        wanted = ", ".join(map(str, ("N", *one.size)))
        raise ValueError(
            f"{what} of shape {list(array.shape)} do not fit; the network takes [{wanted}], N >= 1"
        )
    if one.type == BOOLEAN:
        if array.dtype.kind != "b":
            raise ValueError(f"{what} are {array.dtype}; give booleans")
        return np.ascontiguousarray(array)
    if one.type == BYTES:
        if array.dtype != np.uint8:
            raise ValueError(f"{what} are {array.dtype}; give uint8, from 0 to 255: the file normalizes them")
        return np.ascontiguousarray(array)
    if one.type == INTEGER:
        if array.dtype.kind not in "iu":
            raise ValueError(f"{what} are {array.dtype}; give ids, integers from 0 to {one.ids - 1}")
        if array.min() < 0 or array.max() >= one.ids:
            raise ValueError(
                f"ids reach from {array.min()} to {array.max()}; there are those below {one.ids}"
                + (f" ({name})" if name else "")
            )
        return np.ascontiguousarray(array, np.int64)
    if array.dtype.kind != "f":
        raise ValueError(f"{what} are {array.dtype}; give floats, normalized as in training")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{what} have NaN or infinite values")
    return array


def each(change: Callable[[np.ndarray], Any], arrays: Arrays) -> Any:
    """``change`` of the array, or of each of the arrays by name."""
    if isinstance(arrays, np.ndarray):
        return change(arrays)
    return {name: change(array) for name, array in arrays.items()}


def count_of(arrays: Arrays) -> int:
    """Size of a batch."""
    return len(arrays if isinstance(arrays, np.ndarray) else next(iter(arrays.values())))
