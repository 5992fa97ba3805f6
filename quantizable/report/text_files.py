"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name and rename, so that a reader never sees half of a file."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
