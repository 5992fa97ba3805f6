"""Batches of any size on an engine that takes batches of one size."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantizable.deploy.engines import Runner
from quantizable.deploy.inputs import count_of, each
from quantizable.storage.signature import Arrays


def in_batches(run: Runner, given: Arrays, size: int) -> Any:
    """What ``run`` gives for all of ``given``, an array or a list of them, in batches of ``size``.

    The last batch is filled up with copies of its last input, whose answers are dropped.

    Raises:
        ValueError: an output has no batch axis.
    """
    count = count_of(given)
    padding = -count % size
    if padding:
        given = each(lambda array: np.concatenate([array, array[-1:].repeat(padding, 0)]), given)
    starts = range(0, count + padding, size)
    parts = [run(each(lambda array, i=start: array[i : i + size], given)) for start in starts]  # type: ignore[misc]
    first = parts[0] if isinstance(parts[0], list) else [parts[0]]
    if fixed := [list(part.shape) for part in first if part.shape[:1] != (size,)]:
        raise ValueError(f"an output of shape {fixed[0]} has no batch axis; leave batch out")
    if not isinstance(parts[0], list):
        return np.concatenate(parts)[:count]
    return [np.concatenate(column)[:count] for column in zip(*parts, strict=True)]
