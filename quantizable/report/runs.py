"""Finished runs, read back from their folders."""

from __future__ import annotations

import csv
import glob
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantizable.bits import BitMode
from quantizable.report.below import files_below

NAME = re.compile(r"[A-Za-z][\w-]*")  # of an assignment that a network holds as a mode
NOT_COMPARED = ("seed", "run", "output", "resume", "test", "logger")  # change no result by themselves
NOT_COMPARED_SETTINGS = (  # nor do these
    *("train.histograms_every", "data.num_workers"),
    *("trainer.accelerator", "trainer.channels_last", "trainer.compile", "trainer.deterministic"),
    *("trainer.log_every_n_steps", "trainer.num_nodes", "trainer.strategy"),
)
# modules before they moved into folders: kept results name their classes by the old paths
MOVED = {
    "quantizable.schemes.": "quantizable.training.schemes.",
    "quantizable.samplers.": "quantizable.training.samplers.",
    "quantizable.objectives.": "quantizable.training.objectives.",
    "quantizable.strategies.": "quantizable.training.batch_transforms.",
    "quantizable.runs.": "quantizable.training.metrics_file.",
}
TEST_IMAGES = {"CIFAR10": 10_000, "CIFAR100": 10_000, "SVHN": 26_032}  # as published
Flat = dict[str, Any]
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """One run: its folder's name, its flat configuration, its results, and its validation curves.

    Attributes:
        name: the folder's name.
        config: ``{"schedule.epochs": 10, ...}`` without what changes no result.
        results: the contents of ``results.json``.
        curves: (epoch, top-1 as a fraction) for each validation, by mode, and of their ``"mean"``.
        losses: (epoch, loss) of training, by mode.
    """

    name: str
    config: Flat
    results: dict[str, Any]
    curves: dict[str, Curve]
    losses: dict[str, Curve] = field(default_factory=dict)

    @property
    def images(self) -> int | None:
        """How many images the accuracies were measured on; see :func:`images_measured`."""
        return images_measured(self.results, str(self.config.get("data._target_", "")))


def images_measured(results: Mapping[str, Any], data: str) -> int | None:
    """How many images the accuracies of a ``results.json`` were measured on; None if that is not known.

    Args:
        results: what the file holds; older ones do not say it.
        data: path of the data module's class, which tells it of published sets.
    """
    if "images" in results:
        return int(results["images"]) if results["images"] else None
    return TEST_IMAGES.get(data.rpartition(".")[2]) if results.get("set") == "test" else None


def split_names(words: Sequence[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Paths by the names given to them, and those without one; ``*`` is expanded.

    Raises:
        ValueError: nothing fits a pattern.
    """
    named: dict[str, list[Path]] = {}
    folders: list[Path] = []
    for word in words:
        name, equals, pattern = word.partition("=")
        if not equals or "/" in name or Path(word).exists():  # folders may be named lr=0.1
            name, pattern = "", word
        paths = [Path(path) for path in sorted(glob.glob(pattern))] if "*" in pattern else [Path(pattern)]
        if not paths:
            raise ValueError(f"nothing fits {pattern}; give folders such as checkpoints/<run>")
        (named.setdefault(name, []) if name else folders).extend(paths)
    return named, folders


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders at or below ``paths`` that hold a ``results.json``, each once, as absolute paths.

    Raises:
        ValueError: a path has none.
    """
    found: list[Path] = []
    for path in paths:
        below = sorted(
            file.parent.resolve()
            for file in files_below(path)
            if file.name == "results.json" and _may_be_a_run(file)
        )
        if not below:
            raise ValueError(
                f"{path} holds no finished run (no results.json); give folders such as checkpoints/<run>. "
                f"{left_out([path])}".strip()
            )
        found += below
    return list(dict.fromkeys(found))


def of_training(results: Mapping[str, Any]) -> bool:
    """Whether a ``results.json`` is of training, and not of ``quantizable evaluate``."""
    return "checkpoint" not in results or "config" in results


def _may_be_a_run(file: Path) -> bool:
    try:
        results = json.loads(file.read_text())
    except ValueError:
        return True  # damaged: `read_run` says so
    return not isinstance(results, dict) or of_training(results)


def left_out(paths: Iterable[Path]) -> str:
    """A sentence on the runs at or below ``paths`` that have not ended; empty where there are none."""
    begun = {file.parent for path in paths for file in files_below(path) if file.name == "config.yaml"}
    held = [folder for folder in sorted(begun) if not (folder / "results.json").is_file()]
    runs = [str(one) for one in held if any((one / name).is_file() for name in ("metrics.csv", "last.ckpt"))]
    return f"Left out, as not finished (no results.json): {', '.join(runs)}." if runs else ""


def read_runs(groups: Mapping[str, Iterable[Path]]) -> dict[str, list[Run]]:
    """The runs of groups of folders (absolute paths), with names that tell them apart; see
    :func:`names_apart`."""
    names = names_apart({folder: folder.name for folders in groups.values() for folder in folders})
    return {
        label: [replace(read_run(folder), name=names[folder]) for folder in folders]
        for label, folders in groups.items()
    }


def names_apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """Names of folders; two that have one name get those of the folders above, until they differ.

    Args:
        names: the shortest name of each folder, the last parts of its path; the paths are absolute.
    """
    apart = dict(names)
    while twice := {name for name, count in Counter(apart.values()).items() if count > 1}:
        for folder, name in apart.items():
            if name in twice:
                apart[folder] = "/".join(folder.parts[-len(Path(name).parts) - 1 :])
    return apart


def read_run(folder: Path) -> Run:
    """A run from its folder; ``ValueError`` if its ``results.json`` is not one of ``train.py``."""
    try:
        results = json.loads((folder / "results.json").read_text())
        config = flatten(results["config"])
        check_results(results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}/results.json was not written by train.py ({error!r})") from error
    config = {
        key: present_name(value)
        for key, value in config.items()
        if key.split(".")[0] not in NOT_COMPARED and key not in NOT_COMPARED_SETTINGS
    }
    return Run(
        folder.name,
        {k: v for k, v in config.items() if not k.endswith(".seed")},
        results,
        read_curves(folder),
        read_losses(folder),
    )


def check_results(results: Mapping[str, Any]) -> None:
    """``ValueError``, ``KeyError`` or ``TypeError`` if a ``results.json`` lacks what is shown of it."""
    if not results["modes"]:
        raise ValueError("it has no modes")
    for mode, row in results["modes"].items():
        if by_width(mode)[0] and not NAME.fullmatch(mode):
            raise ValueError(f"{mode!r} is no mode")
        top1 = row["top1"]
        if isinstance(top1, bool) or not isinstance(top1, int | float) or not 0 <= top1 <= 1:
            raise ValueError(f"top-1 of mode {mode} is {top1}, which is no fraction")
    for key in ("seed", "epochs"):
        if not isinstance(results[key], int):
            raise ValueError(f"its {key}: {results[key]!r}, which is no integer")
    if not isinstance(results["set"], str) or not isinstance(results.get("images") or 1, int):
        raise ValueError("it does not say the set and how many images it has")


def by_width(name: str) -> tuple[bool, Any]:
    """Puts modes in the order of their widths, then assignments in that of their names."""
    try:
        return False, BitMode.parse(name)
    except ValueError:
        return True, name


def present_name(value: Any) -> Any:
    """A value of a configuration; a class or function that has moved by its present path."""
    if isinstance(value, str):
        for old, new in MOVED.items():
            if value.startswith(old):
                return new + value.removeprefix(old)
    return value


def read_curves(folder: Path) -> dict[str, Curve]:
    """Validation accuracy by epoch from ``metrics.csv``, where there is one: of each mode, and ``"mean"``."""
    rows = [row for row in _metrics(folder) if row.get("val/top1/mean")]
    return {name: curve for name, curve in _by_mode(rows, "val/top1/").items() if name != "lowest"}


def read_losses(folder: Path) -> dict[str, Curve]:
    """Training loss by epoch and mode from ``metrics.csv``, where there is one: the mean of its rows."""
    return {
        name: [(epoch, statistics.mean(v for e, v in curve if e == epoch)) for epoch in dict(curve)]
        for name, curve in _by_mode(_metrics(folder), "train/loss/").items()
    }


def _metrics(folder: Path) -> list[dict[str, str]]:
    file = folder / "metrics.csv"
    if not file.is_file():
        return []
    try:
        with open(file, newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            _numbers(row)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it to do without curves") from error
    return rows


def _numbers(row: Mapping[str, str]) -> None:
    """``ValueError`` if a cell that a curve is drawn from is no number."""
    for key, text in row.items():
        if text and key == "epoch":
            int(text)
        elif text and key and key.startswith(("val/top1/", "train/loss/")):
            float(text)


def _by_mode(rows: Sequence[Mapping[str, str]], prefix: str) -> dict[str, Curve]:
    """Points (epoch, value) of the columns ``prefix + mode``, of the rows that hold both."""
    keys = [key for key in (rows[0] if rows else {}) if key and key.startswith(prefix)]
    return {
        key.removeprefix(prefix): [
            (int(row["epoch"]), float(row[key])) for row in rows if row.get(key) and row.get("epoch")
        ]
        for key in keys
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested dictionaries as one, with dotted keys."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
