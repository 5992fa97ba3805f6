"""Optional packages, imported when they are needed."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

INSTALL = "pip install 'quantizable[deploy]'"


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package; ``ImportError`` that names the extra to install if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {package}, which is not installed: {INSTALL}"
        ) from error


def check_installed(format: str) -> None:
    """``ImportError`` if what writes files of this format (of ``quantizable export``) is not installed."""
    if format != "qz":
        require("onnxscript", f"format {format!r}")
    if format == "openvino":
        require("openvino", f"format {format!r}")


def openvino_core(purpose: str) -> Any:
    """The process's ``openvino.Core``; ``ImportError`` as :func:`require` where OpenVINO is missing."""
    return _core(require("openvino", purpose))


@functools.cache
def _core(openvino: ModuleType) -> Any:
    # One, for good: its CPU plugin takes over the thread's signal stack, and of two whose lives overlap the
    # last to go puts back the other's, which is freed. The next handled signal then ends the process.
    return openvino.Core()
