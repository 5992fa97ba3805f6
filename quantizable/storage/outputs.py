"""What a network returns: names for its tensors, and its structure, so that an engine can return the same.

A structure is plain data that goes into a file's metadata: the name of a tensor, or the kind of a container
and its contents, ``["tuple", [...]]``, ``["list", [...]]`` or ``["dict", [[key, ...], ...]]``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

INPUT, OUTPUT = "image", "logits"  # of an exported graph

Structure = str | list[Any]
ALLOWED = "a tensor, or tuples, lists and dictionaries (keys: strings or integers) of tensors"


def structure_of(outputs: Any, inputs: Collection[str] = (INPUT,)) -> Structure:
    """Structure of what a network returned, each tensor with a name of its own.

    A single tensor is called ``logits``, an entry of a dictionary (or of a named tuple) by its key, one of a
    tuple or list ``output_0``, ``output_1``, ...; inside one another the names are joined: ``boxes_0``. No
    name is one of ``inputs``.

    Raises:
        ValueError: something else than tensors, tuples, lists and dictionaries.
    """
    single = isinstance(outputs, Tensor)
    structure = _named(outputs, OUTPUT if single else "", {*inputs})
    if not names_in(structure):
        raise ValueError(f"the network returns an empty {type(outputs).__name__}; an export holds {ALLOWED}")
    return structure


def _named(value: Any, name: str, taken: set[str]) -> Structure:
    if isinstance(value, Tensor):
        while name in taken:
            name = f"output_{name}"
        taken.add(name)
        return name
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        inner = [(key, str(key) if not name else f"{name}_{key}") for key in value]
        return ["dict", [[key, _named(value[key], called, taken)] for key, called in inner]]
    if isinstance(value, tuple | list):
        keys = getattr(value, "_fields", None) or range(len(value))
        start = name or ("" if hasattr(value, "_fields") else "output")
        called = [f"{start}_{key}" if start else str(key) for key in keys]
        contents = [_named(part, one, taken) for part, one in zip(value, called, strict=True)]
        return ["list" if isinstance(value, list) else "tuple", contents]
    place = f" as {name}" if name else ""
    raise ValueError(f"the network returns a {type(value).__name__}{place}; an export holds {ALLOWED}")


def names_in(structure: Structure) -> list[str]:
    """The names of the tensors, in order."""
    if isinstance(structure, str):
        return [structure]
    kind, contents = structure
    inside = [part for _, part in contents] if kind == "dict" else contents
    return [name for part in inside for name in names_in(part)]


def tensors_in(outputs: Any) -> Iterator[Any]:
    """The tensors of what a network returned, in the order of :func:`names_in`."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if not isinstance(outputs, tuple | list):
        yield outputs
        return
    for part in outputs:
        yield from tensors_in(part)


def restored(structure: Structure, tensors: Sequence[Any]) -> Any:
    """The tensors, in the order of :func:`names_in`, in a network's structure."""
    return _filled(structure, iter(tensors))


def _filled(structure: Structure, tensors: Iterator[Any]) -> Any:
    if isinstance(structure, str):
        return next(tensors)
    kind, contents = structure
    if kind == "dict":
        return {key: _filled(part, tensors) for key, part in contents}
    parts = [_filled(part, tensors) for part in contents]
    return tuple(parts) if kind == "tuple" else parts


class NamedInputs(nn.Module):
    """A network of several inputs that takes them side by side.

    Args:
        model: the network.
        names: of the arguments of its forward, in order.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, list(names)

    def forward(self, inputs: list[Tensor]) -> Any:
        return self.model(**dict(zip(self.names, inputs, strict=True)))


class FlatOutputs(nn.Module):
    """A network that returns its tensors side by side, each once, whatever its own structure."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> tuple[Tensor, ...]:
        # a tensor that is returned twice, or is the input itself, is no output of a graph: a copy is
        return tuple(tensor.clone() for tensor in tensors_in(self.model(x)))


def only_tensor(answer: Any, who: str) -> Any:
    """``answer``, if it is one tensor or array; else ``ValueError``."""
    if isinstance(answer, tuple | list | Mapping):
        count = sum(1 for _ in tensors_in(answer))
        raise ValueError(
            f"the network returns a {type(answer).__name__} of {count} outputs; {who} needs one tensor of "
            "logits (wrap the network in a module that returns it alone, and export that)"
        )
    return answer
