"""Optional packages, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

INSTALL = "pip install 'quantizable[deploy]'"


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package; ``ImportError`` that names the extra to install if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {package}, which is not installed: {INSTALL}"
        ) from error
