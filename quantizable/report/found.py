"""What folders hold that a page can show: results of training, evaluate, cost, assess, verify and certify."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantizable.report.below import files_below
from quantizable.report.runs import Run, left_out, names_apart, of_training, read_runs

Rows = list[dict[str, str]]
COLUMNS = {  # that are shown of each file
    "cost.csv": ("mode", "bops", "weight_bytes"),
    "layers.csv": ("layer", "mode", "bops"),
}


@dataclass
class Found:
    """The files by the folder they lie in, named from the folder that was asked for, or longer where two
    would have one name.

    Attributes:
        runs: trainings by group; see :func:`quantizable.report.groups.group`.
        evaluations: ``results.json`` of ``quantizable evaluate``.
        costs, layers: rows of ``cost.csv`` and ``layers.csv``.
        assessments: ``assessment.json``, with its folder.
        certificates: ``certificate-*.json`` of ``quantizable verify``, by their names.
        certified: ``certified.json`` of ``quantizable search certify``.
    """

    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: dict[str, Rows] = field(default_factory=dict)
    layers: dict[str, Rows] = field(default_factory=dict)
    assessments: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)
    certificates: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    certified: dict[str, dict[str, Any]] = field(default_factory=dict)


def find(
    folders: Iterable[Path], named: Mapping[str, Iterable[Path]] | None = None
) -> tuple[Found, list[Run]]:
    """What the folders and those below them hold, each folder once.

    Args:
        folders: whose trainings belong to no group yet.
        named: folders by the name of the group of their trainings.

    Returns:
        what was found, with the named groups as its ``runs``, and the trainings of ``folders``.

    Raises:
        FileNotFoundError: a folder that is not there.
        ValueError: a folder that holds nothing to show, or a file that is damaged.
    """
    trainings: dict[str, dict[Path, None]] = {}
    others: dict[Path, None] = {}
    shortest: dict[Path, str] = {}
    for group, paths in {**(named or {}), "": folders}.items():
        own = trainings.setdefault(group, {})
        for folder in paths:
            top = folder.resolve()
            for path in files_in(folder):
                holder = path.parent.resolve()
                if path.name == "results.json" and of_training(_json(path)):
                    own[holder] = None
                else:
                    others[holder / path.name] = None
                    below = top / path.parent.relative_to(folder)
                    shortest.setdefault(holder, str(below.relative_to(top.parent)))
    found, names = Found(), names_apart(shortest)
    for path in others:
        name = names[path.parent]
        if path.name in READERS:
            READERS[path.name](found, name, path)
        else:
            found.certificates.setdefault(name, {})[path.stem] = _json(path)
    groups = read_runs(trainings)
    rest = groups.pop("")
    found.runs = {label: runs for label, runs in groups.items() if runs}
    return found, rest


def files_in(folder: Path) -> list[Path]:
    """The files at or below a folder that can be shown; errors: see :func:`find`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give those of runs, as checkpoints/<run>")
    files = sorted(path for path in files_below(folder) if path.name in READERS or _is_certificate(path))
    if not files:
        raise ValueError(
            f"{folder} holds no finished run and nothing else to show (no {', no '.join(READERS)}); "
            f"give folders such as checkpoints/<run>. {left_out([folder])}".strip()
        )
    return files


def _is_certificate(path: Path) -> bool:
    return path.name.startswith("certificate-") and path.suffix == ".json"


def _json(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} is no file of this library")
    return contents


def _csv(path: Path) -> Rows:
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    lacks = [name for name in COLUMNS[path.name] for row in rows if row.get(name) is None]
    if lacks or any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is damaged, or not written by quantizable cost")
    return rows


def _keep(kind: str, read: Callable[[Path], Any]) -> Callable[[Found, str, Path], None]:
    def reader(found: Found, name: str, path: Path) -> None:
        getattr(found, kind)[name] = read(path)

    return reader


READERS = {
    "results.json": _keep("evaluations", _json),
    "cost.csv": _keep("costs", _csv),
    "layers.csv": _keep("layers", _csv),
    "assessment.json": _keep("assessments", lambda path: (_json(path), path.parent)),
    "certified.json": _keep("certified", _json),
}
