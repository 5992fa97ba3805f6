"""Classes made of a quantized one and the class of a module at hand, which copy and pickle as any other."""

from __future__ import annotations

import copyreg
from typing import Any


class DerivedClass(type):
    """A class that no file can name, but by the two that it is made of."""


MADE: dict[tuple[type, type], type[Any]] = {}


def derived(quantized: Any, original: Any) -> type[Any]:
    """A subclass of both, methods of ``quantized`` first; the same for the same two."""
    both = (quantized, original)
    if both not in MADE:
        MADE[both] = DerivedClass(f"Quant{original.__name__}", both, {"__module__": quantized.__module__})
    return MADE[both]


def _made_of(kind: type) -> tuple[Any, ...]:
    return derived, kind.__bases__


copyreg.pickle(DerivedClass, _made_of)  # type: ignore[arg-type]
