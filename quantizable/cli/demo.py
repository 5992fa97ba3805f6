"""``quantizable demo model.qz``: drop an image on a local page, and see what every mode says to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.cli.arguments import add_engine, check_guard, check_listed
from quantizable.deploy.processor import check_kernels
from quantizable.interface.choices import ENGINES
from quantizable.storage.network_file import check_network_file, read_about


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("demo", help="a local page: one image in every mode, with a bit slider")
    parser.add_argument("model", type=Path, help="a .qz file or a checkpoint")
    parser.add_argument("--guard", type=Path, help="guard.json of assess; default: that beside the model")
    add_engine(parser, default="onnxruntime", text="one of")
    parser.add_argument("--threads", type=int, help="default: as many as cores")
    parser.add_argument("--port", type=int, help="default: the first that is free from 7860 on")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then show the page until Ctrl-C."""
    check_listed("engine", args.engine, ENGINES)
    if "," in args.engine:
        raise ValueError("the demo runs on one engine, as --engine openvino")
    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f"--port is {args.port}; give 1 to 65535")
    if args.model.suffix in (".onnx", ".xml"):
        raise ValueError(
            f"{args.model} holds one mode; the demo compares modes: give a .qz file or a checkpoint"
        )
    check_network_file(args.model)
    if args.guard is not None:
        about = read_about(args.model)
        check_guard(args.guard, args.model, about["modes"] if about else None)
    check_kernels()
    from quantizable.deploy.demo_page import run

    return run(args)
