"""Classes made of a quantized one and the class of a module at hand, which copy and pickle as any other."""

from __future__ import annotations

import copyreg
import inspect
from functools import wraps
from typing import Any


class DerivedClass(type):
    """A class that no file can name, but by the two that it is made of."""


MADE: dict[tuple[type, type], type[Any]] = {}


def derived(quantized: Any, original: Any) -> type[Any]:
    """A subclass of both, methods of ``quantized`` first; the same for the same two."""
    both = (quantized, original)
    if both not in MADE:
        inside: dict[str, Any] = {"__module__": quantized.__module__}
        if (
            "args" in inspect.signature(quantized.forward).parameters
        ):  # it says nothing of what the model takes
            inside["forward"] = _with_signature_of(original.forward, quantized.forward)
        MADE[both] = DerivedClass(f"Quant{original.__name__}", both, inside)
    return MADE[both]


def _with_signature_of(original: Any, quantized: Any) -> Any:
    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return quantized(self, *args, **kwargs)

    return forward


def _made_of(kind: type) -> tuple[Any, ...]:
    return derived, kind.__bases__


copyreg.pickle(DerivedClass, _made_of)  # type: ignore[arg-type]
