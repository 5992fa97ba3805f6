"""Runs of ``train.py`` that a benchmark compares: what is finished is kept, what was cut off is resumed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def folders(name: str, output: Path) -> list[Path]:
    """The folders of a run: ``train.py`` begins one that was cut off in its first epoch anew, in NAME-2."""
    repeated = re.compile(re.escape(name) + r"(-\d+)?")
    return sorted(path for path in output.glob(f"{name}*") if repeated.fullmatch(path.name))


def finished(name: str, output: Path) -> Path | None:
    """The folder of the run that has its results, or None."""
    return next((path for path in folders(name, output) if (path / "results.json").exists()), None)


def trained(name: str, overrides: Sequence[str], output: Path) -> dict[str, Any]:
    """The contents of ``results.json`` of the run ``output/name``, which is trained unless they are there.

    Args:
        overrides: what stands behind ``python train.py``.

    Raises:
        SystemExit: training failed, with its exit status; the reason is on stderr.
    """
    if finished(name, output) is None:
        command = [sys.executable, str(ROOT / "train.py"), *overrides, f"output={output}", f"run={name}"]
        if any((path / "last.ckpt").exists() for path in folders(name, output)):
            command.append("resume=last")
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise SystemExit(error.returncode) from None  # train.py has said why
    folder = finished(name, output)
    assert folder is not None, f"train.py left no results.json in {output}/{name}"
    return json.loads((folder / "results.json").read_text())
