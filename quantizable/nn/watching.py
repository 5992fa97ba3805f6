"""Hooks on named modules for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Note = Callable[..., Any]
"""Called with (name, module, inputs) before a module runs, or (name, module, inputs, output) after it."""


@contextmanager
def watching(modules: Mapping[str, nn.Module], note: Note, before: bool = False) -> Iterator[None]:
    """Call ``note`` at each use of each of ``modules``; no hook is left behind, whatever happens inside.

    Args:
        modules: parts of a model, by name.
        note: told the name first, then what a torch hook is told; what it returns (not None) replaces the
            output, or the inputs.
        before: before the module runs, with its inputs, instead of after it.
    """

    def hook(name: str) -> Note:
        return lambda *seen: note(name, *seen)

    handles = [
        module.register_forward_pre_hook(hook(name)) if before else module.register_forward_hook(hook(name))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
