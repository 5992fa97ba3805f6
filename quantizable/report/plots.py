"""Pictures of runs and modes, as matplotlib figures in PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantizable.report.files import written_whole
from quantizable.report.runs import Curve, Run


def save_figure(figure: Any, path: str | Path) -> None:
    """Save a matplotlib figure as PNG, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(as_png(figure))


def as_png(figure: Any) -> bytes:
    """A matplotlib figure as the contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def plain(text: str) -> str:
    """A name as matplotlib shows it, which takes what stands between dollar signs for a formula."""
    return text.replace("$", r"\$")


def plot_modes(path: Path, curves: Mapping[str, Mapping[str, Mapping[str, float]]], title: str = "") -> None:
    """Accuracy against bits as a picture, one line per entry of ``curves`` (a result of :func:`by_mode`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    names: Sequence[str] = list(dict.fromkeys(mode for modes in curves.values() for mode in modes))
    for label, modes in curves.items():
        shown = [mode for mode in names if mode in modes]
        axes.plot(
            [names.index(m) for m in shown], [100 * modes[m]["top1"] for m in shown], "o-", label=plain(label)
        )
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
    axes.set_title(plain(title))
    if len(curves) > 1:
        axes.legend()
    save_figure(figure, path)


def plot_curves(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """Validation accuracy against epochs: of one run each mode, of several the means by group."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    runs = [run for group in groups.values() for run in group]
    lines: list[tuple[str | None, str | None, Curve]]
    if len(runs) == 1:
        lines = [(mode, None, runs[0].curves.get(mode, [])) for mode in runs[0].results["modes"]]
    else:
        lines = [
            (None if index else label, f"C{number % 10}", run.curves.get("mean", []))
            for number, (label, group) in enumerate(groups.items())
            for index, run in enumerate(group)
        ]
    for name, color, curve in lines:
        epochs, top1 = [epoch for epoch, _ in curve], [100 * top1 for _, top1 in curve]
        # a line through one point is none
        axes.plot(
            epochs,
            top1,
            color=color,
            label=None if name is None else plain(name),
            marker="o" if len(curve) == 1 else None,
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # no epoch has a half
    axes.set_ylabel("validation top-1, %" if len(runs) == 1 else "validation top-1, mean over modes, %")
    axes.grid(alpha=0.3)
    if len(runs) == 1 or len(groups) > 1:
        axes.legend(title="mode" if len(runs) == 1 else None, fontsize="small")
    save_figure(figure, path)


def plot_bars(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each row of the table, by group; with the standard deviation where there are seeds."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(row["group"] for row in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure = Figure(figsize=(7, 1 + 0.18 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(modes)
    for number, mode in enumerate(modes):
        own = [row for row in rows if row["mode"] == mode]
        axes.barh(
            [labels.index(row["group"]) + number * height for row in own],
            [row["top1_mean"] for row in own],
            height,
            xerr=[row["top1_std"] or 0.0 for row in own],
            label=mode,
        )
    lowest, highest = (pick(row["top1_mean"] for row in rows) for pick in (min, max))
    axes.set_xlim(max(0, lowest - 0.1 * (highest - lowest) - 1), min(100, highest + 1))  # not from 0
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], [*map(plain, labels)])
    axes.invert_yaxis()
    axes.set_xlabel("top-1 accuracy, %")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(title="mode", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars
    save_figure(figure, path)
