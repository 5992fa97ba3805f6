"""``quantizable report RUN...``: one HTML page of everything that the folders of runs hold."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.report.files import check_folder

EXAMPLES = """examples:
  quantizable report checkpoints/cifar10_resnet20
  quantizable report checkpoints/a checkpoints/b --output both.html
  quantizable report individual='checkpoints/individual_*' checkpoints/together
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML page of what run folders hold: training, modes, cost, agreement, certificates",
        epilog=EXAMPLES,
    )
    text = "folders of results, or folders of them; * stands for anything"
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help=text)
    parser.add_argument(
        "--output", type=_file, metavar="FILE", default="report.html", help="default: report.html"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check that the folders hold something, then write the page."""
    from quantizable.report.found import files_in
    from quantizable.report.runs import split_names

    named, folders = split_names(args.runs)
    for folder in (*folders, *(path for paths in named.values() for path in paths)):
        files_in(folder)
    from quantizable.report.build import run

    return run(args)


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    check_folder(path.parent)  # which is made
    return path
