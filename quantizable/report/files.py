"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: str | Path) -> Path:
    """The path, if a file can be written there; asked before long work.

    Raises:
        OSError: the folder does not exist or is not writable, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent} to write {path.name} into; create it first"
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PermissionError(f"{path} cannot be written: {error.strerror}") from error
    return path


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there; ``OSError`` that says why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{path} is a file; give the name of a folder") from error
    except OSError as error:
        raise type(error)(f"the folder {path} cannot be made: {error.strerror}") from error


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes ``path`` if the block succeeds and is removed if not."""
    path = check_target(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
