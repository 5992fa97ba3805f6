"""torch's exporter takes a second for a small network; tests that export the same one share its answer.

Shared are the operations that ``norm_folding.traced`` finds and the file of ``export._to_onnx``, for a
network of the same content: classes, code of the forward passes, attributes, tensors. All that this project
does before, between and behind them runs in each test.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch


class ExportMemo:
    """Stands in for ``_to_onnx``; ``off`` makes it export each time."""

    def __init__(self, export: Any) -> None:
        self.export = export
        self.known: dict[str, bytes] = {}
        self.off = False

    def __call__(self, lowered: Any, example: Any, signature: Any) -> Any:
        if self.off:
            return self.export(lowered, example, signature)
        content = (lowered.model, example.args, example.kwargs, signature, lowered.outputs, lowered.inputs)
        key = digest(content)
        if key in self.known:
            import onnx

            return onnx.ModelProto.FromString(self.known[key])
        model = self.export(lowered, example, signature)
        self.known[key] = model.SerializeToString(deterministic=True)
        return model


def digest(content: Any) -> str:
    """The same for two objects of the same classes that hold the same values, however deep."""
    found = hashlib.sha256()
    seen: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            add(torch.from_numpy(value))
        elif isinstance(value, functools.partial):
            add((value.func, value.args, value.keywords))
        elif isinstance(value, FunctionType):
            code = value.__code__
            found.update(code.co_code + repr((value.__qualname__, code.co_consts, code.co_names)).encode())
            add((value.__defaults__, [cell.cell_contents for cell in value.__closure__ or ()]))
        elif isinstance(value, Mapping):
            found.update(f"{type(value).__qualname__} {len(value)}".encode())
            for key, held in value.items():
                found.update(repr(key).encode())
                add(held)
        elif isinstance(value, list | tuple | set | frozenset):
            found.update(f"{type(value).__qualname__} {len(value)}".encode())
            for held in value:
                add(held)
        elif id(value) in seen:
            found.update(f"again {seen[id(value)]}".encode())
        elif not isinstance(value, type) and hasattr(value, "__dict__"):
            seen[id(value)] = len(seen)
            kind = type(value)
            found.update(f"{kind.__module__}.{kind.__qualname__}".encode())
            add(getattr(kind, "forward", None))
            add(vars(value))
        else:  # numbers, words, classes; an address in the representation only means that nothing is shared
            found.update(repr(value).encode())

    add(content)
    return found.hexdigest()


def shared(trace: Any) -> Any:
    """``traced`` that looks at a network of the same content once; nothing changes its graphs."""
    known: dict[str, Any] = {}

    def traced(model: Any, inputs: Any) -> Any:
        key = digest((model, inputs.args, inputs.kwargs))
        if key not in known:
            known[key] = trace(model, inputs)
        return known[key]

    return traced


@pytest.fixture(scope="session", autouse=True)
def shared_exports() -> Any:
    """The memo, for the whole session; None without the exporter."""
    try:
        from quantizable.deploy import export, norm_folding
    except ImportError:
        return None
    norm_folding.traced = shared(norm_folding.traced)
    memo = ExportMemo(export._to_onnx)
    export._to_onnx = memo  # type: ignore[assignment]
    return memo


@pytest.fixture
def exported_anew(shared_exports: Any) -> Any:
    """For a test of the exporter itself."""
    shared_exports.off = True
    yield
    shared_exports.off = False
