"""``quantizable compare RUN...``: runs side by side, as a table, pictures and one HTML page.

Runs that differ in nothing but the seed are one group: mean and standard deviation over its seeds. A name
makes a group of any runs: ``individual='checkpoints/individual_*'`` holds a network for each mode.
"""

from __future__ import annotations

import argparse
import base64
import csv
import glob
import html
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quantizable.bits import BitMode
from quantizable.report.results import plot_modes, write_json

NOT_COMPARED = (
    "seed",
    "run",
    "output",
    "resume",
    "test",
    "logger",
    "trainer",
)  # change no result by themselves
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
    """

    name: str
    config: Flat
    results: dict[str, Any]
    curves: dict[str, Curve]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("compare", help="runs side by side: table, plots, HTML")
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="run folders, or folders of them; * stands for anything"
    )
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder for what is written")
    parser.set_defaults(run=run)


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


def split_names(words: Sequence[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Paths by the names given to them, and those without one; ``*`` is expanded.

    Raises:
        ValueError: nothing fits a pattern.
    """
    named: dict[str, list[Path]] = {}
    folders: list[Path] = []
    for word in words:
        name, equals, pattern = word.partition("=")
        if not equals or Path(word).exists():
            name, pattern = "", word
        paths = [Path(path) for path in sorted(glob.glob(pattern))] if "*" in pattern else [Path(pattern)]
        if not paths:
            raise ValueError(f"nothing fits {pattern}; give folders such as checkpoints/<run>")
        (named.setdefault(name, []) if name else folders).extend(paths)
    return named, folders


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders at or below ``paths`` that hold a ``results.json``; ``ValueError`` if a path has none."""
    found: list[Path] = []
    for path in paths:
        below = sorted(file.parent for file in path.rglob("results.json"))
        if not below:
            raise ValueError(
                f"{path} holds no finished run (no results.json); give folders such as checkpoints/<run>"
            )
        found += below
    return list(dict.fromkeys(found))


def read_run(folder: Path) -> Run:
    """A run from its folder; ``ValueError`` if its ``results.json`` is not one of ``train.py``."""
    try:
        results = json.loads((folder / "results.json").read_text())
        config = flatten(results["config"])
        results["modes"].items()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}/results.json was not written by train.py ({error!r})") from error
    config = {key: value for key, value in config.items() if key.split(".")[0] not in NOT_COMPARED}
    return Run(
        folder.name,
        {k: v for k, v in config.items() if not k.endswith(".seed")},
        results,
        read_curves(folder),
    )


def read_curves(folder: Path) -> dict[str, Curve]:
    """Validation accuracy by epoch from ``metrics.csv``, where there is one: of each mode, and ``"mean"``."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return {}
    with open(file, newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("val/top1/mean")]
    names = [
        key.removeprefix("val/top1/") for key in (rows[0] if rows else {}) if key.startswith("val/top1/")
    ]
    return {
        name: [(int(row["epoch"]), float(row[f"val/top1/{name}"])) for row in rows]
        for name in names
        if name != "lowest"
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


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table in the terminal."""
    table = Table("runs", "mode", "top-1 %", "seeds", "epochs", "set")
    for row in rows:
        seeds, epochs = (", ".join(map(str, row[key])) for key in ("seeds", "epochs"))
        table.add_row(row["group"], row["mode"], _accuracy(row), seeds, epochs, row["set"])
    Console().print(table)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table as CSV, written to a temporary file and renamed."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def plot_curves(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """Validation accuracy against epochs: of one run each mode, of several the means by group."""
    from matplotlib.figure import Figure

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
        axes.plot([epoch for epoch, _ in curve], [100 * top1 for _, top1 in curve], color=color, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1, %" if len(runs) == 1 else "validation top-1, mean over modes, %")
    axes.grid(alpha=0.3)
    if len(runs) == 1 or len(groups) > 1:
        axes.legend(title="mode" if len(runs) == 1 else None, fontsize="small")
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=130)
    os.replace(part, path)


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
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(labels))], labels)
    axes.invert_yaxis()
    axes.set_xlabel("top-1 accuracy, %")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(title="mode", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=130)
    os.replace(part, path)


def write_page(path: Path, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Path]) -> None:
    """One HTML file with the table and the pictures inside."""
    keys = ("group", "mode", "seeds", "epochs", "set", "runs")
    head = "".join(f"<th>{key}</th>" for key in (*keys, "top-1 %"))
    body = "\n".join(
        "<tr>"
        + "".join(f"<td>{html.escape(str(v))}</td>" for v in (*(row[k] for k in keys), _accuracy(row)))
        + "</tr>"
        for row in rows
    )
    images = "\n".join(
        f'<img src="data:image/png;base64,{base64.b64encode(p.read_bytes()).decode()}" alt="{p.stem}">'
        for p in pictures
    )
    page = (
        "<!doctype html><meta charset=utf-8><title>Runs compared</title>"
        "<style>body{font-family:sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}"
        "img{max-width:32%}</style>"
        f"<h1>Runs compared</h1><table><tr>{head}</tr>{body}</table>{images}\n"
    )
    part = path.with_name(path.name + ".part")
    part.write_text(page)
    os.replace(part, path)
