"""The command ``quantizable``. Here is what can be said without torch; each command imports what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import quantizable
from quantizable.cli.arguments import Parser
from quantizable.interface.errors import mendable, nearest, one_line

COMMANDS = (
    *("train", "evaluate", "compare", "assess", "verify", "search", "finetune", "recipe"),
    *("calibrate", "export", "predict", "demo", "cost", "report", "dashboard"),
)
DEBUG = "--debug"


def parser() -> Parser:
    """The parser with all subcommands."""
    top = Parser(prog="quantizable", description=quantizable.__doc__.splitlines()[0])
    top.add_argument("--version", action="version", version=quantizable.__version__)
    top.add_argument(DEBUG, action="store_true", help="show where an error came from; with any command")
    subparsers = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        import_module(f"quantizable.cli.{command}").add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it went well, 2 and one line on standard error if the input was bad.

    A fault of ours is not hidden: it ends with its traceback, as any error does with ``--debug``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug, words = DEBUG in words, [word for word in words if word != DEBUG]
    try:
        if words[:1] in (["train"], ["finetune"], ["recipe"]):  # what follows is Hydra's to parse
            return import_module(f"quantizable.cli.{words[0]}").run(words[1:], debug)  # type: ignore[no-any-return]
        args = parse(words)
        return args.run(args)
    except Exception as error:
        if debug or not mendable(error):
            raise
        print(f"quantizable: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quantizable: stopped", file=sys.stderr)
        return 130


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command; ``SystemExit`` for words that it does not have."""
    top = parser()
    args, left = top.parse_known_args(words)
    if left:  # argparse has filled in `data` already when data=NAME comes after an option
        if not hasattr(args, "data") or not all(word.startswith("data") for word in left):
            option = left[0].partition("=")[0]
            close = nearest(option, top.options(args.command))
            hint = f"; did you mean {close}?" if close else ""
            top.error(f"unrecognized arguments: {' '.join(left)}{hint}")
        args.data = [*args.data, *left]
    return args
