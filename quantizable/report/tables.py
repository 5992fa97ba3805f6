"""The accuracy of every mode as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
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


def print_table(modes: Mapping[str, Mapping[str, float]], title: str, classes: int) -> None:
    """Print one row per mode; accuracies and disagreement (fractions) in percent.

    Args:
        modes: the metrics of each mode.
        title: of the table.
        classes: how many there are; of five or fewer the best five hold the right one always.
    """
    columns = {name: header for name, header in COLUMNS.items() if name != "top5" or classes > 5}
    table = Table("mode", *columns.values(), title=title)
    for mode, values in modes.items():
        table.add_row(mode, *(_cell(name, values.get(name)) for name in columns))
    Console().print(table)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f}"
