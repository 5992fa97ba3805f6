"""Files of ``torch.save`` that were changed since: torch reads them without a look at their checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_entries(path: Path) -> None:
    """``ValueError`` if an entry of a zip file does not fit its checksum (CRC-32); other files pass."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(_message(path)) from error
    if damaged is not None:
        raise ValueError(_message(path))


def _message(path: Path) -> str:
    return f"{path} was changed or damaged: a checksum in it does not fit; copy it again"
