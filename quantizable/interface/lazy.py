"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in modules of its own.

    Args:
        package: its ``__name__``.
        homes: module by name, relative to the package or with its full name.
    """

    def get(name: str) -> Any:
        if name in homes:
            module = homes[name]
            full = module if module.startswith("quantizable.") else f"{package}.{module}"
            return getattr(import_module(full), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
