"""Files written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HOST = re.sub(r"\W", "_", platform.node()) or "here"
TEMPORARY = re.compile(r"\..+\.(?P<host>\w+)-(?P<pid>\d+)\.tmp(\.\w+)?")  # names that ``written_whole`` gives
ABANDONED = 24 * 3600  # seconds after which nobody on another machine can be writing the file


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


def check_folder(path: Path) -> Path:
    """The path, if it is a folder or one can be made there; asked before long work, which makes it.

    Raises:
        OSError: a file is in the way, or the folder that is there is not writable.
    """
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; give the name of a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {path} (Permission denied); choose another output folder")
    return path


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there; ``OSError`` if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise NotADirectoryError(f"{path} is a file; give the name of a folder") from error
    except OSError as error:
        raise type(error)(
            f"cannot write to {path} ({error.strerror}); choose another output folder"
        ) from error


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to; it becomes ``path`` if the block succeeds and is removed if not.

    What processes that were killed have left in the folder is removed, too.
    """
    path = check_target(path)
    remove_abandoned(path.parent)
    temporary = path.with_name(f".{path.stem}.{HOST}-{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote into a folder."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in names:
        if (written := TEMPORARY.fullmatch(name)) is None:
            continue
        with suppress(OSError):  # gone by now, or another user's
            if written["host"] == HOST:
                abandoned = not _is_alive(int(written["pid"]))
            else:  # of another machine or container that shares the folder
                abandoned = time.time() - (folder / name).stat().st_mtime > ABANDONED
            if abandoned:
                (folder / name).unlink()


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere signal 0 ends a process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, contents: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(contents, indent=2) + "\n")


def finite(contents: Any) -> Any:
    """The same with None for numbers that are NaN or infinite, which JSON does not have."""
    if isinstance(contents, Mapping):
        return {key: finite(value) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [finite(value) for value in contents]
    return None if isinstance(contents, float) and not math.isfinite(contents) else contents
