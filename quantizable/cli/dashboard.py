"""``quantizable dashboard``: a W&B workspace that lays out the panels in which modes are compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.cli.arguments import add_bits
from quantizable.report.files import check_target


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("dashboard", help="save a W&B workspace that compares the modes")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--project", default="quantizable", help="W&B project (default: quantizable)")
    add_bits(parser, default="2,4,8,32", files=False, value="2,4,8,32")
    parser.add_argument(
        "--dry-run", type=Path, metavar="FILE", help="write what would be saved, as JSON, and save nothing"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check where the file goes, then save the workspace or write it there."""
    if args.dry_run is not None:
        check_target(args.dry_run)
    from quantizable.report.dashboard import run

    return run(args)
