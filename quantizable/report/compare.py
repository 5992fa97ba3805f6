"""``quantizable compare RUN...``: runs side by side, as a table, pictures and one HTML page.

Runs that differ in nothing but the seed are one group: mean and standard deviation over its seeds. A name
makes a group of any runs: ``individual='checkpoints/individual_*'`` holds a network for each mode.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quantizable.report.build import write_page
from quantizable.report.files import make_folder, write_json, written_whole
from quantizable.report.groups import accuracy, joined, mean_of, modes_of, table_rows, words
from quantizable.report.plots import plot_bars, plot_curves, plot_modes
from quantizable.report.runs import find_runs, left_out, read_runs, split_names


def run(args: argparse.Namespace) -> int:
    """Print the table; write compare.json, compare.csv, three pictures and report.html."""
    named, folders = split_names(args.runs)
    read = read_runs({name: find_runs(paths) for name, paths in {**named, "": folders}.items()})
    rest = read.pop("")
    groups = joined(read, rest)
    rows = table_rows(groups)
    print_rows(rows)
    if left := left_out([*folders, *(path for paths in named.values() for path in paths)]):
        print(left)
    make_folder(args.output)
    write_json(args.output / "compare.json", rows)
    write_csv(args.output / "compare.csv", rows)
    means = {label: {m: {"top1": mean_of(runs, m)} for m in modes_of(runs)} for label, runs in groups.items()}
    plot_modes(args.output / "modes.png", means, "test accuracy against bits")
    plot_curves(args.output / "curves.png", groups)
    plot_bars(args.output / "bars.png", rows)
    written = ["compare.json", "compare.csv", "modes.png", "bars.png", "curves.png"]
    if write_page(args.output / "report.html", "Runs compared", groups):
        written.insert(0, "report.html")
    print(f"wrote {args.output}/{', '.join(written)}")
    return 0


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table in the terminal."""
    table = Table("runs", "mode", "top-1 %", "seed", "epochs", "set")  # which seeds, not how many
    for row in rows:
        last = (words(row[key]) for key in ("seeds", "epochs", "set"))
        table.add_row(row["group"], row["mode"], accuracy(row), *last)
    Console().print(table)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table as CSV."""
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: words(value) for key, value in row.items()} for row in rows)
