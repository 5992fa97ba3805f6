"""``quantizable cost CHECKPOINT``: what each mode costs, by layer, and its latency on each engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.cli.arguments import (
    ASSIGNMENTS,
    add_bits,
    add_checkpoint,
    add_engine,
    add_output,
    check_listed,
    check_network,
    read_json,
)
from quantizable.deploy.processor import check_kernels
from quantizable.interface.choices import ENGINES
from quantizable.interface.words import listed
from quantizable.report.files import check_target


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "cost", help="MACs, bit operations, bytes, memory and latency of each mode"
    )
    add_checkpoint(parser)
    add_bits(parser, default="all", files=False)
    add_engine(parser, default="", text="also measure latency on these, separated by commas")
    parser.add_argument("--threads", type=int, help="of one inference on the engines (default: 2)")
    parser.add_argument(
        "--layer-latency",
        type=Path,
        metavar="FILE",
        help="also time each layer in each mode on the one engine given: JSON for search bits --cost latency",
    )
    parser.add_argument("--layers", action="store_true", help="print a row per layer, too")
    parser.add_argument(
        "--coverage", action="store_true", help="print which products are quantized, and why not the others"
    )
    parser.add_argument(
        "--results", type=Path, help="results.json with accuracies; default: beside the checkpoint"
    )
    add_output(parser, "for cost.csv, layers.csv and cost.png; default: nothing is written")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then count and measure."""
    if args.engine:
        check_listed("engine", args.engine, ENGINES)
    if args.layer_latency and (len(listed(args.engine)) != 1 or args.engine == "torch"):
        raise ValueError("--layer-latency times layers on one engine; give --engine openvino or onnxruntime")
    if args.layer_latency:
        check_target(args.layer_latency)
    if args.threads is not None and not args.engine:
        raise ValueError("--threads is of a measurement; give --engine, too, or leave it out")
    args.threads = 2 if args.threads is None else args.threads
    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; give at least 1")
    if files := [word for word in listed(args.bits or "") if word.endswith(ASSIGNMENTS)]:
        raise ValueError(
            f"cost counts modes and no file such as {files[0]}; make it a mode: quantizable finetune"
        )
    if args.results is not None:
        read_json(args.results, "results.json of this library")
    check_network(args.checkpoint, args.bits)
    check_kernels()
    from quantizable.deploy.command_cost import run

    return run(args)
