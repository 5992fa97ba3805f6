"""The files below a folder, those of linked folders too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, as ``Path.rglob`` names them, and those of folders that links lead to.

    A folder that several paths lead to is entered once, so that circles of links end.
    """
    entered: set[Path] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        top = Path(here).resolve()
        if top in entered:
            folders.clear()
            continue
        entered.add(top)
        folders.sort()
        yield from (Path(here) / file for file in sorted(files))
