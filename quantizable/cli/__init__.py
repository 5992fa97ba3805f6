"""The command ``quantizable``: every room adds its own subcommand. Training is ``python train.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import quantizable

ROOMS = (
    "quantizable.assess.command",
    "quantizable.measure.evaluate",
    "quantizable.report.compare",
    "quantizable.search.command",
    "quantizable.report.dashboard",
    "quantizable.deploy.command_export",
    "quantizable.deploy.command_cost",
    "quantizable.deploy.command_predict",
    "quantizable.verify.command",
)


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    top = argparse.ArgumentParser(prog="quantizable", description=quantizable.__doc__.splitlines()[0])
    top.add_argument("--version", action="version", version=quantizable.__version__)
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for room in ROOMS:
        import_module(room).add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it went well, 2 and one line on standard error if the input was bad."""
    top = parser()
    args, left = top.parse_known_args(argv)
    if left:  # argparse has filled in `data` already when data=NAME comes after an option
        if not hasattr(args, "data") or not all(word.startswith("data") for word in left):
            top.error(f"unrecognized arguments: {' '.join(left)}")
        args.data = [*args.data, *left]
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"quantizable: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quantizable: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
