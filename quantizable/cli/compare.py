"""``quantizable compare RUN...``: runs side by side, as a table, pictures and one HTML page."""

from __future__ import annotations

import argparse

from quantizable.cli.arguments import add_output


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("compare", help="runs side by side: table, plots, HTML")
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="run folders, or folders of them; * stands for anything"
    )
    add_output(parser, "for tables, pictures and report.html; default: comparison", "comparison")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no plots, then compare the runs."""
    from quantizable.report.runs import find_runs, split_names

    named, folders = split_names(args.runs)
    for paths in (folders, *named.values()):
        find_runs(paths)
    from quantizable.report.compare import run

    return run(args)
