"""What a module was made with, in plain types: loggers show it, checkpoints keep it.

A checkpoint holds tensors and plain values alone, so that loading one never runs code. What is neither, a
network or a scheme of the user's own, is kept as its name in angle brackets and has to be given again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from quantizable.bits import BitMode
from quantizable.training.schemes import SCHEMES


def plain(value: Any) -> Any:
    """The same in plain types, nested as it was; an object as ``"<its name>"``."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, BitMode):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    known = [name for name, scheme in SCHEMES.items() if scheme == value]
    if known:
        return known[0]
    words = type(value).__name__ if isinstance(value, nn.Module) else re.sub(r" at 0x\w+", "", repr(value))
    return words if words.startswith("<") else f"<{words}>"


def plain_fields(value: Any) -> Any:
    """A dataclass as a dictionary of plain types."""
    return plain(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else plain(value)


def check_given(make: Callable[..., Any], kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """``ValueError`` that names what a checkpoint keeps by name alone, and the caller must give.

    Args:
        make: the constructor that is about to be called.
        kept: the settings in the checkpoint.
        given: the caller's.
    """
    parameters = inspect.signature(make).parameters
    everything = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    objects = {
        name: value
        for name, value in kept.items()
        if isinstance(value, str) and value.startswith("<") and (everything or name in parameters)
    }
    lacking = [name for name in objects if name not in given]
    if lacking:
        words = ", ".join(f"{name}={objects[name]}" for name in lacking)
        again = ", ".join(f"{name}=..." for name in lacking)
        raise ValueError(
            f"made with {words}, which is not in a checkpoint; load_from_checkpoint(path, {again}), or "
            "quantizable.load(path) for the network alone"
        )
