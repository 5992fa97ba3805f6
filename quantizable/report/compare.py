"""``quantizable compare RUN...``: runs side by side, as a table, pictures and one HTML page.

Runs that differ in nothing but the seed are one group: mean and standard deviation over its seeds. A name
makes a group of any runs: ``individual='checkpoints/individual_*'`` holds a network for each mode.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quantizable.bits import BitMode
from quantizable.report.files import write_json, write_text, written_whole
from quantizable.report.page import Grid, render_page
from quantizable.report.plots import plot_bars, plot_curves, plot_modes
from quantizable.report.runs import Flat, Run, find_runs, read_run, split_names


def run(args: argparse.Namespace) -> int:
    """Print the table; write compare.json, compare.csv, three pictures and compare.html."""
    named, folders = split_names(args.runs)
    groups = {name: [read_run(folder) for folder in find_runs(paths)] for name, paths in named.items()}
    if folders:
        groups |= group(read_run(folder) for folder in find_runs(folders))
    rows = table_rows(groups)
    print_rows(rows)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "compare.json", rows)
    write_csv(args.output / "compare.csv", rows)
    means = {label: {m: {"top1": mean_of(runs, m)} for m in modes_of(runs)} for label, runs in groups.items()}
    plot_modes(args.output / "modes.png", means, "test accuracy against bits")
    plot_curves(args.output / "curves.png", groups)
    plot_bars(args.output / "bars.png", rows)
    pictures = [args.output / f"{name}.png" for name in ("modes", "bars", "curves")]
    write_page(args.output / "compare.html", rows, pictures)
    print(f"wrote {args.output}/compare.html, compare.json, compare.csv, modes.png, bars.png, curves.png")
    return 0


def group(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by configuration, labelled by what the configurations differ in; a missing setting is None."""
    by_config: dict[str, list[Run]] = {}
    for one in runs:
        said = {key: value for key, value in one.config.items() if value is not None}
        by_config.setdefault(json.dumps(said, sort_keys=True), []).append(one)
    configs = [members[0].config for members in by_config.values()]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]

    def label(config: Flat) -> str:
        shown = [f"{key}={config[key]}" for key in differing if key in config]
        return ", ".join(shown) or "all runs"

    return {label(members[0].config): members for members in by_config.values()}


def modes_of(runs: Sequence[Run]) -> list[str]:
    """The modes that the runs of a group measured, from the lowest to the highest."""
    return sorted({mode for one in runs for mode in one.results["modes"]}, key=BitMode.parse)


def with_mode(runs: Sequence[Run], mode: str) -> list[Run]:
    """The runs of a group that measured a mode: all, unless they are networks for a mode each."""
    return [one for one in runs if mode in one.results["modes"]]


def mean_of(runs: Sequence[Run], mode: str) -> float:
    """Mean top-1 of a mode over a group's runs, a fraction."""
    return statistics.mean(one.results["modes"][mode]["top1"] for one in with_mode(runs, mode))


def table_rows(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Any]]:
    """One row per group and mode: top-1 in percent, mean and sample standard deviation over seeds."""
    rows = []
    for label, members in groups.items():
        for mode in modes_of(members):
            runs = with_mode(members, mode)
            values = [100 * one.results["modes"][mode]["top1"] for one in runs]
            rows.append(
                {
                    "group": label,
                    "mode": mode,
                    "top1_mean": round(statistics.mean(values), 3),
                    "top1_std": round(statistics.stdev(values), 3) if len(values) > 1 else None,
                    "seeds": sorted(one.results["seed"] for one in runs),
                    "epochs": sorted({one.results["epochs"] for one in runs}),
                    "set": runs[0].results["set"],
                    "runs": [one.name for one in runs],
                }
            )
    return rows


def _accuracy(row: Mapping[str, Any]) -> str:
    spread = "" if row["top1_std"] is None else f" ± {row['top1_std']:.2f}"
    return f"{row['top1_mean']:.2f}{spread}"


def _cell(value: Any) -> Any:
    """A list as words; anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table in the terminal."""
    table = Table("runs", "mode", "top-1 %", "seeds", "epochs", "set")
    for row in rows:
        table.add_row(
            row["group"], row["mode"], _accuracy(row), _cell(row["seeds"]), _cell(row["epochs"]), row["set"]
        )
    Console().print(table)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table as CSV."""
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def write_page(path: Path, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Path]) -> None:
    """One HTML file with the table and the pictures inside."""
    keys = ("group", "mode", "seeds", "epochs", "set", "runs")
    table = Grid(
        "", [*keys, "top-1 %"], [[*(_cell(row[key]) for key in keys), _accuracy(row)] for row in rows]
    )
    write_text(path, render_page("Runs compared", [table], [picture.read_bytes() for picture in pictures]))
