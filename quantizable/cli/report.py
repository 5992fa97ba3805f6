"""``quantizable report RUN...``: one HTML page of everything that the folders of runs hold."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        "--output", type=Path, metavar="FILE", default=Path("report.html"), help="default: report.html"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then write the page."""
    for word in args.runs:
        name, _, pattern = word.partition("=")
        if "*" not in word and not Path(word).exists() and not Path(pattern or name).exists():
            raise FileNotFoundError(f"there is no folder {pattern or name}; give those of runs")
    from quantizable.report.build import run

    return run(args)
