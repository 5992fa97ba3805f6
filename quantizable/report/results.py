"""What a run leaves behind: a table in the terminal, ``results.json`` and ``modes.png``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = {"top1": "top-1 %", "top5": "top-5 %", "loss": "loss", "disagreement": "differs from highest %"}


def by_mode(metrics: Mapping[str, Any], stage: str) -> dict[str, dict[str, float]]:
    """``{"test/top1/4": 0.9, ...}`` as ``{"4": {"top1": 0.9, ...}}``, from the lowest mode to the highest."""
    modes: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        part, _, rest = key.partition("/")
        name, _, mode = rest.partition("/")
        if part == stage and name in COLUMNS and mode not in ("", "mean", "lowest"):
            modes.setdefault(mode, {})[name] = float(value)
    return modes


def print_table(modes: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print one row per mode; accuracies and disagreement (fractions) in percent."""
    table = Table("mode", *COLUMNS.values(), title=title)
    for mode, values in modes.items():
        table.add_row(mode, *(_cell(name, values.get(name)) for name in COLUMNS))
    Console().print(table)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f}"


def finite(contents: Any) -> Any:
    """The same with None for numbers that are NaN or infinite, which JSON does not have."""
    if isinstance(contents, Mapping):
        return {key: finite(value) for key, value in contents.items()}
    if isinstance(contents, list | tuple):
        return [finite(value) for value in contents]
    return None if isinstance(contents, float) and not math.isfinite(contents) else contents


def write_json(path: Path, contents: Any) -> None:
    """Write JSON to a temporary file and rename it, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(contents, indent=2) + "\n")
    os.replace(part, path)


def plot_modes(path: Path, curves: Mapping[str, Mapping[str, Mapping[str, float]]], title: str = "") -> None:
    """Accuracy against bits as a picture, one line per entry of ``curves`` (a result of :func:`by_mode`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    names: Sequence[str] = list(dict.fromkeys(mode for modes in curves.values() for mode in modes))
    for label, modes in curves.items():
        shown = [mode for mode in names if mode in modes]
        axes.plot([names.index(m) for m in shown], [100 * modes[m]["top1"] for m in shown], "o-", label=label)
        for mode in shown if len(curves) == 1 else ():
            text = f"{100 * modes[mode]['top1']:.2f}"
            axes.annotate(
                text,
                (names.index(mode), 100 * modes[mode]["top1"]),
                (0, 7),
                textcoords="offset points",
                ha="center",
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("bit mode (weights and activations; 32 = float)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.margins(0.1, 0.2)
    axes.grid(alpha=0.3)
    axes.set_title(title)
    if len(curves) > 1:
        axes.legend()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=130)
    os.replace(part, path)
