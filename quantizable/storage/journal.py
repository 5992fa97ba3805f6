"""Results kept as they come, one JSON object a line: a killed run loses at most the line it was writing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quantizable.report.files import write_text


class Journal:
    """A file of JSON lines that belongs to one set of settings.

    Args:
        path: the file; made with its folder if it is not there.
        settings: written to its first line; a file of other settings is refused.

    Attributes:
        rows: everything read and added so far.
        settings: as they are on disk.

    Raises:
        ValueError: the file was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings = json.loads(json.dumps(settings))  # tuples become lists, as when read back
        lines = _whole_lines(path) if path.is_file() else []
        if lines and lines[0] != settings:
            different = sorted(k for k in {*settings, *lines[0]} if settings.get(k) != lines[0].get(k))
            raise ValueError(
                f"{path} was made with other settings ({', '.join(different)}); give another output folder"
            )
        self.rows: list[dict[str, Any]] = lines[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        # without a line that was cut off
        write_text(path, "".join(json.dumps(line) + "\n" for line in [settings, *self.rows]))

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on disk before this returns."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut off when the run was killed
    return lines
