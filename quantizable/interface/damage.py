"""Files of ``torch.save`` that were changed since: torch reads them without a look at their checksums."""

from __future__ import annotations

import zipfile
import zlib
from functools import cache
from pathlib import Path

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)  # said of changed bytes


def check_entries(path: Path) -> None:
    """``ValueError`` if an entry of a zip file does not fit its checksum (CRC-32); other files pass.

    A file is read once in a process, and again when its size or its time has changed.
    """
    about = path.stat()
    if not _is_whole(path.resolve(), about.st_size, about.st_mtime_ns):
        raise ValueError(f"{path} was changed or damaged: a checksum in it does not fit; copy it again")


@cache
def _is_whole(path: Path, size: int, changed: int) -> bool:
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except UNREADABLE:
        return False
