"""Which mode each layer and norm gets: by patterns of names, or layer by layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from quantizable.bits import BitMode, ModeLike
from quantizable.nn.additions import Additions
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import PerModeNorm

Parts = Mapping[str, Any]  # layers, norms and products by name, in the order of the network


class NamedModes(dict[str, "BitMode | str"]):
    """An assignment that a network holds as a mode: of every layer its mode, of every norm the name.

    Args:
        name: under which ``set_bits`` knows it.
        parts: what can be switched.
        highest: the mode of layers that were put in after the assignment was added.
        modes: of the other layers.
    """

    def __init__(self, name: str, parts: Parts, highest: BitMode, modes: Mapping[str, ModeLike]) -> None:
        self.name = name
        for part, module in parts.items():
            self[part] = name if isinstance(module, PerModeNorm) else BitMode.parse(modes.get(part, highest))

    def layer_mode(self, layer: str) -> BitMode:
        """The mode of a layer."""
        return BitMode.parse(self[layer])

    def of_layers(self) -> list[BitMode]:
        """The modes of all layers."""
        return [mode for mode in self.values() if isinstance(mode, BitMode)]


def check_name(name: str) -> None:
    """``ValueError`` unless an assignment can be held under that name."""
    try:
        BitMode.parse(name)
    except ValueError:
        if (
            isinstance(name, str)
            and re.fullmatch(r"[A-Za-z][\w-]*", name)
            and not hasattr(nn.ModuleDict(), name)
        ):
            return
    raise ValueError(
        f"an assignment cannot be called {name!r}; its name has letters, digits, - and _, begins with a "
        "letter and is no bit mode and no word of Python's, as 'found'"
    )


def held(modes: Sequence[BitMode], mode: ModeLike, named: Collection[str] = ()) -> BitMode:
    """The mode, if it is among ``modes``; else ``ValueError`` with the list of those and of ``named``."""
    known = ", ".join([*(m.name for m in modes), *named])
    try:
        parsed = BitMode.parse(mode)
    except ValueError as error:
        if not named:
            raise
        raise ValueError(f"the network has no assignment {mode!r}; it has {known}") from error
    if parsed not in modes:
        raise ValueError(
            f"the network has no mode {parsed.name}; it has {known} "
            "(a new one: add_mode, then reestimate_norms)"
        )
    return parsed


def modes_by_pattern(
    parts: Parts, modes: Sequence[BitMode], patterns: Mapping[str, ModeLike], default: ModeLike | None
) -> dict[str, BitMode]:
    """The mode of every layer and norm, by the last pattern that matches its name.

    Args:
        parts: what can be switched.
        modes: what the network holds, from the lowest to the highest.
        patterns: modes by shell pattern of names.
        default: of layers that no pattern matches.

    Raises:
        ValueError: as :meth:`quantizable.QuantizableNetwork.set_bits` with a mapping.
    """
    parsed = {pattern: _of_pattern(parts, modes, pattern, mode) for pattern, mode in patterns.items()}
    fallback = None if default is None else held(modes, default)
    assignment: dict[str, BitMode] = {}
    before = fallback or modes[-1]
    for name, module in parts.items():
        matching = [mode for pattern, mode in parsed.items() if fnmatchcase(name, pattern)]
        mode = matching[-1] if matching else fallback
        if isinstance(module, PerModeNorm | Additions):
            mode = matching[-1] if matching else before
        elif mode is None:
            raise ValueError(f"no pattern matches layer {name!r}; add one or give default=")
        elif mode in modes:  # else it is the width of a fixed layer, for which there are no norms
            before = mode
        assignment[name] = mode
    return assignment


def _of_pattern(parts: Parts, modes: Sequence[BitMode], pattern: str, mode: ModeLike) -> BitMode:
    if not isinstance(pattern, str):
        raise ValueError(f'layer pattern {pattern!r} is no string; write {{"layer1.*": 4}}')
    module = parts.get(pattern)
    if isinstance(module, QuantLayer) and module.fixed_bits is not None:
        parsed = BitMode.parse(mode)
        if module.resolve(parsed) != parsed:
            raise ValueError(
                f"layer {pattern!r} is fixed at {module.fixed_bits} bits (first_last or overrides); "
                f"it cannot run at {parsed.name}"
            )
        return parsed
    if not any(fnmatchcase(name, pattern) for name in parts):
        raise ValueError(f"layer pattern {pattern!r} matches nothing; there are {', '.join(parts)}")
    return held(modes, mode)


def modes_by_layer(parts: Parts, highest: BitMode, modes: Mapping[str, BitMode]) -> dict[str, BitMode]:
    """The mode of every layer by its full name; a norm follows the layer registered before it."""
    assignment: dict[str, BitMode] = {}
    before = highest
    for name in parts:
        before = modes.get(name, before)
        assignment[name] = before
    return assignment


def plain_mode(mode: BitMode) -> int | str:
    """A mode as YAML and JSON write it: ``4`` or ``"w4a8"``."""
    return mode.weight if mode.weight == mode.activation else mode.name


def plain_modes(
    parts: Parts, assignment: BitMode | NamedModes | Mapping[str, BitMode]
) -> int | str | dict[str, int | str]:
    """The modes as plain words; of a fixed layer the width that it runs at."""
    if isinstance(assignment, NamedModes):
        return assignment.name
    if isinstance(assignment, BitMode):
        return plain_mode(assignment)
    shown = {}
    for name, mode in assignment.items():
        module = parts[name]
        fixed = isinstance(module, QuantLayer) and module.fixed_bits is not None
        shown[name] = plain_mode(module.resolve(mode) if fixed else mode)
    return shown
