"""What the folder of a run is called, and which run ``resume=`` means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quantizable.training.same_settings import differing


def named_folder(cfg: dict[str, Any]) -> Path:
    """``output``/``run``, by default ``output``/DATA_MODEL; of repetitions the first."""
    data = str(cfg["data"]["_target_"]).rpartition(".")[2].lower()
    name = cfg["run"] or f"{data}_{cfg['model']['name'].replace(':', '_').replace('/', '_')}"
    return Path(cfg["output"]) / name


def resumed(cfg: dict[str, Any]) -> Path | None:
    """The checkpoint that ``resume`` names; of ``"last"`` that of the run's latest repetition.

    Repetitions may have other settings, as the seeds of a sweep: of those with these settings the latest.

    Raises:
        ValueError: a path and the name of another run; a run goes on in its own folder.
    """
    if cfg["resume"] is None:
        return None
    if cfg["resume"] == "last":
        return latest(named_folder(cfg), cfg) / "last.ckpt"
    path = Path(cfg["resume"])
    if (
        path.is_file()
        and cfg["run"]
        and path.parent.resolve() not in [run.resolve() for run in numbered(named_folder(cfg))]
    ):
        raise ValueError(
            f"resume={path} goes on in its own folder, {path.parent}, not in {named_folder(cfg)}; leave out "
            "run, or give start= in place of resume= to begin another run from it"
        )
    return path


def latest(folder: Path, cfg: dict[str, Any] | None = None) -> Path:
    """Of folder, folder-2, folder-3, ... the one whose ``last.ckpt`` is the newest.

    Args:
        folder: of the first.
        cfg: settings; those that were begun with them come first.
    """
    saved = [path for run in numbered(folder) if (path := run / "last.ckpt").is_file()]
    same = [path for path in saved if cfg is None or not differing(cfg, path.parent)]
    return max(same or saved, key=lambda path: path.stat().st_mtime).parent if saved else folder


def numbered(folder: Path) -> list[Path]:
    """Those of folder, folder-2, folder-3, ... that there are: a run and its repetitions."""
    number = re.compile(re.escape(folder.name) + r"(-\d+)?")
    return sorted(path for path in folder.parent.glob("*") if number.fullmatch(path.name) and path.is_dir())
