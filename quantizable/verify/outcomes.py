"""What came out of many queries: a table, JSON, decided against time, counterexample pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from quantizable.report.files import write_text
from quantizable.report.plots import save_figure
from quantizable.verify.decide import Verdict

Named = tuple[str, Verdict]


def print_table(results: Sequence[Named], console: Console | None = None) -> None:
    """A row per query and a count per status."""
    table = Table(title="Verification")
    for column in ("query", "status", "method", "proved bounds", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    colors = {"proved": "green", "refuted": "red", "unknown": "yellow"}
    for name, verdict in results:
        status = f"[{colors[verdict.status]}]{verdict.status}[/]"
        bounds = f"[{verdict.low:.6g}, {verdict.high:.6g}]".replace("[", r"\[")
        table.add_row(name, status, verdict.method, bounds, f"{verdict.seconds:.2f}")
    counts = Counter(verdict.status for _, verdict in results)
    table.caption = ", ".join(f"{counts[s]} {s}" for s in ("proved", "refuted", "unknown"))
    (console or Console()).print(table)


def as_json(results: Sequence[Named]) -> list[dict[str, Any]]:
    """Plain values; a counterexample with its input and both outputs."""
    rows = []
    for name, v in results:
        row: dict[str, Any] = {
            "query": name,
            "status": v.status,
            "method": v.method,
            "bound": [v.low, v.high],
            "seconds": round(v.seconds, 3),
        }
        if v.counterexample is not None:
            c = v.counterexample
            row["counterexample"] = {
                "input": c.x.tolist(),
                "first": c.first.tolist(),
                "second": c.second.tolist(),
            }
        rows.append(row)
    return rows


def save_report(results: Sequence[Named], folder: str | Path) -> list[Path]:
    """Write ``verdicts.json``, ``decided.png`` and, where inputs are images, ``refuted.png``.

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "verdicts.json"]
    write_text(files[0], json.dumps(as_json(results), indent=1) + "\n")
    plot_decided([v for _, v in results], folder / "decided.png")
    files.append(folder / "decided.png")
    pictures = [
        (name, v, image)
        for name, v in results
        if v.counterexample is not None and (image := as_image(v.counterexample.x)) is not None
    ]
    if pictures:
        plot_counterexamples(pictures[:12], folder / "refuted.png")
        files.append(folder / "refuted.png")
    return files


def plot_decided(verdicts: Sequence[Verdict], path: Path) -> None:
    """Cumulative number of proved and refuted queries against the time each one took."""
    figure, axes = _figure(6, 3.6)
    for status, color in (("proved", "tab:green"), ("refuted", "tab:red")):
        times = sorted(v.seconds for v in verdicts if v.status == status)
        if times:
            axes.step(times, range(1, len(times) + 1), where="post", color=color, label=status)
    unknown = sum(v.status == "unknown" for v in verdicts)
    axes.set(xscale="log", xlabel="time of the query (s)", ylabel="queries decided")
    axes.set_title(f"{len(verdicts) - unknown} of {len(verdicts)} queries decided")
    if axes.has_data():
        axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_counterexamples(results: Sequence[tuple[str, Verdict, torch.Tensor]], path: Path) -> None:
    """The refuting inputs with the classes both networks give them."""
    from matplotlib.figure import Figure

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.7 * rows), layout="constrained")
    for i, (name, verdict, image) in enumerate(results):
        assert verdict.counterexample is not None
        found = verdict.counterexample
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image.numpy(), cmap="gray")
        axes.set_axis_off()
        classes = f"classes {int(found.first.argmax())}, {int(found.second.argmax())}"
        axes.set_title(f"{name}\n{abs(found.value):.3g} apart, {classes}", fontsize=8)
    save_figure(figure, path)


def as_image(x: torch.Tensor) -> torch.Tensor | None:
    """An input as a picture: ``(h, w)``, ``(1, h, w)``, ``(3, h, w)`` or a flat square; else None."""
    if x.ndim == 1 and (side := round(x.numel() ** 0.5)) ** 2 == x.numel() and side >= 8:
        return x.reshape(side, side)
    if x.ndim == 3 and x.shape[0] == 1:
        return x[0]
    if x.ndim == 3 and x.shape[0] == 3:
        return ((x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)).permute(1, 2, 0)
    return x if x.ndim == 2 else None


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
