"""What a network is given: name, shape and type of each of its inputs (its *signature*).

A network that takes one tensor is called by position, and the input of its exported graph is called
``image``. The inputs of any other network have the names of its ``forward``'s arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantizable.network import QuantizableNetwork
from quantizable.nn.network_inputs import Inputs, network_inputs
from quantizable.nn.watching import watching
from quantizable.storage.outputs import INPUT
from quantizable.storage.preprocessing import BYTES_KEY, input_size_of, preprocessing

KEY = "inputs"  # of network.info: the signature of a network that does not take one tensor
INFO_KEYS = (KEY, "input_size", "input_ids")  # what describe_inputs says
FLOAT, INTEGER, BOOLEAN, BYTES = "float32", "int64", "bool", "uint8"

Arrays = np.ndarray | dict[str, np.ndarray]
"""A batch: of a network of one tensor an array, of another its arrays by name."""


@dataclass(frozen=True)
class Input:
    """One input of a network.

    Attributes:
        size: its shape without the batch.
        type: ``"float32"``, ``"int64"``, ``"bool"``, or ``"uint8"`` for images as they are.
        ids: of integers how many there are, those from 0 on; 0 for other types.
    """

    size: tuple[int, ...]
    type: str = FLOAT
    ids: int = 0

    @property
    def is_mask(self) -> bool:
        """True for inputs of two values, as masks of tokens are."""
        return self.type == BOOLEAN or self.ids == 2

    def blank(self, count: int) -> np.ndarray:
        """``[count, *size]``: zeros, or a mask whose second half is zeros."""
        if self.is_mask:
            return np.stack([self.mask(0.5)] * count)
        return np.zeros((count, *self.size), self.type)

    def mask(self, share: float) -> np.ndarray:
        """Ones on a share (0 to 1) of the last axis, then zeros, as padding is; both where there is room.

        So no token is hidden from all others, whichever of the two values hides.
        """
        steps = self.size[-1] if self.size else 1
        ones = min(max(round(share * steps), 1), max(steps - 1, 1))
        return (
            np.broadcast_to(np.arange(steps) < ones, self.size or (1,)).reshape(self.size).astype(self.type)
        )


Signature = dict[str, Input]


def takes_one(signature: Signature) -> bool:
    """True for a network that takes one tensor, by position."""
    return [*signature] == [INPUT]


def signature_of(network: QuantizableNetwork, size: tuple[int, ...] | None = None) -> Signature:
    """What ``network.info`` says of the inputs: :func:`describe_inputs`, or the size of one tensor.

    Args:
        network: its ``info["input_ids"]`` says how many ids there are, if one tensor holds such.
        size: shape of the one tensor that it takes, in place of what ``info`` says.

    Raises:
        ValueError: nothing says it.
    """
    info = preprocessing(network)
    return read_signature(info, () if info.get(KEY) else size or input_size_of(network))


def read_signature(info: Mapping[str, Any], size: tuple[int, ...]) -> Signature:
    """The signature in ``info`` as a file holds it.

    Args:
        info: of a file or a network.
        size: of the tensor, where ``info`` names no inputs.
    """
    if info.get(KEY):
        return {name: Input(tuple(one["size"]), one["type"], one["ids"]) for name, one in info[KEY].items()}
    ids = int(info.get("input_ids") or 0)
    kind = BYTES if info.get(BYTES_KEY) else INTEGER if ids else FLOAT
    return {INPUT: Input(tuple(size), kind, ids)}


def describe_inputs(network: QuantizableNetwork, batch: Any) -> dict[str, Any]:
    """What ``network.info`` has to say of the inputs, so that exports and files know them.

        network.info |= describe_inputs(network, {"input_ids": ids, "attention_mask": mask})

    How many ids there are is read off the embedding that takes them; of integers that none takes (masks)
    it is one more than the largest in the batch, at least two.

    Args:
        network: on the batch's device.
        batch: as ``calibrate`` reads it: a tensor, a tuple, or a mapping of arguments; the first axis of
            every tensor is the batch.

    Raises:
        ValueError: an input that is no tensor, or tensors of unequal batch sizes.
    """
    inputs = network_inputs(network.model, batch)
    given = _named(network.model, inputs)
    for name, value in given.items():
        if not isinstance(value, Tensor) or not value.dim():
            raise ValueError(f"input {name} is a {type(value).__name__}; an export takes batches of tensors")
    if len(counts := {len(value) for value in given.values()}) > 1:
        raise ValueError(f"the inputs hold batches of {sorted(counts)}; their first axis is the batch")
    found = {name: _input(value, _embedded(network, inputs, value)) for name, value in given.items()}
    if takes_one(found):
        (one,) = found.values()
        return {"input_size": list(one.size)} | ({"input_ids": one.ids} if one.ids else {})
    return {KEY: {name: {**asdict(one), "size": list(one.size)} for name, one in found.items()}}


def _named(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The arguments by name; one tensor by position is called as in an exported graph."""
    if len(inputs.args) == 1 and not inputs.kwargs:
        return {INPUT: inputs.args[0]}
    return {
        **dict(zip(inspect.signature(model.forward).parameters, inputs.args, strict=False)),
        **inputs.kwargs,
    }


def _input(value: Tensor, embedded: int) -> Input:
    size = tuple(value.shape[1:])
    if value.dtype == torch.bool:
        return Input(size, BOOLEAN)
    if value.is_floating_point():
        return Input(size)
    return Input(size, INTEGER, embedded or max(int(value.max()) + 1, 2))


@torch.no_grad()
def _embedded(network: QuantizableNetwork, inputs: Inputs, value: Tensor) -> int:
    """Rows of the smallest embedding that looks ``value`` up, or 0."""
    found: list[int] = []

    def note(_: str, layer: Any, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].data_ptr() == value.data_ptr():
            found.append(layer.num_embeddings)

    tables = {
        name: part
        for name, part in network.model.named_modules()
        if isinstance(part, nn.Embedding | nn.EmbeddingBag)
    }
    if tables and not value.is_floating_point():
        with watching(tables, note, before=True):
            inputs(network)
    return min(found, default=0)


def batch_of(signature: Signature, make: Callable[[str, Input], np.ndarray]) -> Arrays:
    """A batch whose arrays ``make`` gives, called with each input's name and the input."""
    arrays = {name: make(name, one) for name, one in signature.items()}
    return arrays[INPUT] if takes_one(signature) else arrays


def as_inputs(arrays: Arrays) -> Inputs:
    """A batch as the network takes it."""
    if isinstance(arrays, np.ndarray):
        return Inputs((torch.from_numpy(arrays),))
    return Inputs(kwargs={name: torch.from_numpy(array) for name, array in arrays.items()})


def example_inputs(network: QuantizableNetwork, count: int, size: tuple[int, ...] | None = None) -> Inputs:
    """A batch that says nothing, of the shapes and types that the network takes.

    Args:
        network: see :func:`signature_of`.
        count: of inputs.
        size: of each tensor, where the network takes one; None: what ``info`` says.

    Raises:
        ValueError: nothing says what the network takes.
    """
    return as_inputs(batch_of(signature_of(network, size), lambda _, one: one.blank(count)))
