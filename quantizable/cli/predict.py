"""``quantizable predict MODEL INPUT... --bits 4``: the five likeliest classes of each image or text."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.cli.arguments import ASSIGNMENTS, add_engine, check_bits, check_guard, check_listed
from quantizable.deploy.processor import check_kernels
from quantizable.interface.choices import ENGINES
from quantizable.storage.input_files import check_images, find_inputs, reads_words
from quantizable.storage.network_file import check_graph_file, check_network_file, read_about


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("predict", help="classify images or texts with an exported file")
    parser.add_argument("model", type=Path, help="a .qz, .onnx or OpenVINO's .xml file, or a checkpoint")
    parser.add_argument(
        "inputs",
        nargs="+",
        help="image files, folders, globs; for a network that reads words, texts or files with one a line; "
        "or - for a list on standard input",
    )
    parser.add_argument("--bits", help="one mode; default: the highest of the file")
    parser.add_argument(
        "--guard",
        type=Path,
        help="guard.json of quantizable assess: answer in its low mode, and in its high mode where unsure",
    )
    add_engine(parser, default="onnxruntime", text="one of")
    parser.add_argument("--threads", type=int, help="default: as many as cores")
    parser.add_argument("--batch", type=int, default=16, help="inputs per inference (default: 16)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per input")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then predict."""
    if args.guard and args.bits:
        raise ValueError("--guard names its two modes itself; leave --bits out")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; give at least 1")
    if args.bits and args.bits.endswith(ASSIGNMENTS):
        raise ValueError(
            f"predict runs a mode and no file such as {args.bits}; make it a mode: quantizable finetune"
        )
    if args.batch < 1:
        raise ValueError(f"--batch is {args.batch}; give at least 1")
    if "," in args.engine or (args.bits and "," in args.bits):
        raise ValueError("predict runs one mode on one engine, as --bits 4 --engine openvino")
    check_listed("engine", args.engine, ENGINES)
    graph = args.model.suffix in (".onnx", ".xml")
    (check_graph_file if graph else check_network_file)(args.model)
    about = None if graph else read_about(args.model)
    check_bits(
        args.bits, args.model, about["modes"] if about else None, about["assignments"] if about else ()
    )
    if args.guard is not None:
        check_guard(args.guard, args.model, about["modes"] if about else None)
    args.found = find_inputs(args.inputs, about["data"]) if about else None
    if args.found and about and not reads_words(about["data"]):
        check_images(args.found, args.batch)
    check_kernels()
    from quantizable.deploy.command_predict import run

    return run(args)
