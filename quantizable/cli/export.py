"""``quantizable export CHECKPOINT --bits 2,4,8 --format onnx,qz,openvino``: integer files for engines."""

from __future__ import annotations

import argparse

from quantizable.cli.arguments import (
    add_bits,
    add_checkpoint,
    add_data,
    add_output,
    check_listed,
    check_network,
)
from quantizable.deploy.processor import check_kernels
from quantizable.interface.choices import FORMATS, PREPROCESS, STYLES, WEIGHT_STORAGE


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("export", help="write integer files: .qz (every mode), ONNX, OpenVINO")
    add_checkpoint(parser)
    add_data(parser, "to fit the norms of an assignment and --residual int8 with; ")
    add_bits(parser, default="all modes that are integer")
    parser.add_argument(
        "--format", default="qz", help=f"separated by commas: {', '.join(FORMATS)} (default: qz)"
    )
    add_output(parser, "to write to; default: that of the checkpoint")
    parser.add_argument("--style", choices=STYLES, default="qdq", help="ONNX operators (default: qdq)")
    parser.add_argument(
        "--weights", choices=WEIGHT_STORAGE, default="int8", help="storage of weights of 4 bits and less"
    )
    parser.add_argument(
        "--residual",
        choices=("float", "int8"),
        default="float",
        help="residual additions in ONNX and OpenVINO files; int8 is faster and not exact",
    )
    parser.add_argument(
        "--preprocess",
        choices=PREPROCESS,
        default="outside",
        help="who normalizes images; in-graph: ONNX and OpenVINO files take uint8 images",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="print of each layer how it runs, with --format onnx or openvino",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then write the files."""
    check_listed("format", args.format, FORMATS)
    check_network(args.checkpoint, args.bits, args.data)
    check_kernels()
    from quantizable.deploy.command_export import run

    return run(args)
