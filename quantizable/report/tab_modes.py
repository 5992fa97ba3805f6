"""The page's tab on modes: what each reaches on the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantizable.report.charts import (
    NAMED,
    Interval,
    axes,
    by_name,
    line,
    overlap_sentence,
    overlap_warning,
    overlapping,
    spread,
)
from quantizable.report.found import Found
from quantizable.report.groups import (
    Groups,
    accuracy,
    interval_of,
    mean_of,
    modes_of,
    named,
    table_rows,
    words,
)
from quantizable.report.page import Chart, Grid, Note, Part, Tab
from quantizable.report.runs import by_width
from quantizable.report.tables import COLUMNS


def modes(found: Found) -> Tab | None:
    """The tab; None without accuracies."""
    parts: list[Part] = []
    if found.runs:
        parts += _of_runs(found)
    for name, results in found.evaluations.items():
        parts.append(_metrics(f"{name}: evaluated on the {results.get('set', '')} set", results["modes"]))
    return Tab("modes", parts) if parts else None


def _of_runs(found: Found) -> list[Part]:
    groups = named(found.runs)
    order = sorted({mode for runs in groups.values() for mode in modes_of(runs)}, key=by_width)
    lines: list[dict[str, Any]] = []
    intervals: dict[tuple[str, str], Interval | None] = {}
    for number, (label, runs) in enumerate(groups.items()):
        held = modes_of(runs)
        intervals |= {(label, mode): interval_of(runs, mode) for mode in held}
        bars = spread([intervals[label, mode] for mode in held])
        lines.append(
            line(label, held, [100 * mean_of(runs, mode) for mode in held], number, **_percent(bars))
        )
    layout = by_name(axes("bit mode (weights and activations; 32 = float)", "top-1, %"))
    layout["xaxis"] |= {"categoryorder": "array", "categoryarray": order}
    parts: list[Part] = [
        Chart(
            "Accuracy against bits",
            f"Top-1 accuracy of each bit mode on the {_sets(found)} set{_known(intervals)}: "
            f"{_best(groups, order)}.",
            lines,
            layout,
            _warning(intervals, order, list(groups)),
        )
    ]
    if not any(intervals.values()):
        parts.append(
            Note("No interval is known: one run each, and the results do not say on how many images.")
        )
    rows = table_rows(groups)
    keys = ("group", "mode", "seeds", "epochs", "set", "runs")
    head = ["group", "mode", "top-1, %", "95 % interval, %", "seed", "epochs", "set", "runs"]
    cells = [[words(row[key]) for key in keys] for row in rows]
    grid = [
        [own[0], own[1], accuracy(row), _ends(row), *own[2:]] for own, row in zip(cells, rows, strict=True)
    ]
    parts.append(Grid("Top-1 by mode", head, grid))
    every = [run for runs in groups.values() for run in runs]
    if len(every) == 1:
        parts.append(_metrics("All metrics", every[0].results["modes"]))
    return parts


def _known(intervals: Mapping[Any, Interval | None]) -> str:
    return ", with its 95 % interval" if any(intervals.values()) else ""


def _best(groups: Groups, order: Sequence[str]) -> str:
    """Of one group the lowest and the highest mode, of several the best in each mode, or in some."""
    means = {
        (label, mode): 100 * mean_of(runs, mode) for label, runs in groups.items() for mode in modes_of(runs)
    }
    if len(groups) == 1:
        values = sorted((value, mode) for (_, mode), value in means.items())
        (least, low), (most, high) = values[0], values[-1]
        if low == high:
            return f"{least:.2f} % in mode {low}"
        return f"from {least:.2f} % in mode {low} to {most:.2f} % in mode {high}"
    best = []
    for mode in order[:NAMED]:
        value, label = max((value, label) for (label, own), value in means.items() if own == mode)
        best.append(f"{label} in mode {mode} ({value:.2f} %)")
    return f"of {len(groups)} groups of runs the best are {', '.join(best)}"


def _warning(
    intervals: dict[tuple[str, str], Interval | None], order: Sequence[str], groups: Sequence[str]
) -> str:
    """The groups are compared in each mode, where there are several, and the modes of each group."""
    if len(groups) == 1:
        of_modes = [(f"mode {mode}", intervals.get((groups[0], mode))) for mode in order]
        return overlap_warning(of_modes, "is more accurate")
    of_groups = [
        (low, high, f"in mode {mode}")
        for mode in order
        for low, high in overlapping((label, intervals.get((label, mode))) for label in groups)
    ]
    of_each = [
        (low, high, f"modes of {label}")
        for label in groups
        for low, high in overlapping((mode, intervals.get((label, mode))) for mode in order)
    ]
    return " ".join(
        filter(None, (overlap_sentence(pairs, "is more accurate") for pairs in (of_groups, of_each)))
    )


def _percent(bars: dict[str, Any]) -> dict[str, Any]:
    if not bars:
        return {}
    error = bars["error_y"]
    return {"error_y": {**error, **{key: [100 * v for v in error[key]] for key in ("array", "arrayminus")}}}


def _ends(row: dict[str, Any]) -> str:
    return "" if row["top1_low"] is None else f"{row['top1_low']:.2f} to {row['top1_high']:.2f}"


def _sets(found: Found) -> str:
    return " and ".join(sorted({str(run.results["set"]) for runs in found.runs.values() for run in runs}))


def _metrics(title: str, measured: dict[str, dict[str, float]]) -> Grid:
    shown = {key: head for key, head in COLUMNS.items() if any(key in row for row in measured.values())}
    rows = []
    for mode in sorted(measured, key=by_width):
        values = [(key, measured[mode].get(key)) for key in shown]
        cells = [
            "" if value is None else f"{value:.4f}" if key == "loss" else f"{100 * value:.2f}"
            for key, value in values
        ]
        rows.append([mode, *cells])
    return Grid(title, ["mode", *shown.values()], rows)
