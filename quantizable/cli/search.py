"""``quantizable search bits|sensitivity|certify|predict CHECKPOINT``: bits per layer, certified answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.bits import check_bits, parse_modes
from quantizable.cli.arguments import (
    add_bits,
    add_checkpoint,
    add_data,
    add_engine,
    add_output,
    check_listed,
    check_network,
    read_json,
)
from quantizable.interface.budget_words import read_budgets
from quantizable.interface.choices import COSTS, ENGINES, METHODS, OBJECTIVES
from quantizable.interface.errors import unknown
from quantizable.interface.words import listed
from quantizable.storage.input_files import find_images

DATA_WORDS = ("data=", "data.")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand and its three parts."""
    top = subparsers.add_parser("search", help="bits per layer within a budget; certified robustness")
    parts = top.add_subparsers(metavar="PART", dest="part", required=True)
    bits = _part(parts, "bits", "search the bits of each layer", images=500)
    bits.add_argument("--methods", default=",".join(METHODS), help="separated by commas (default: all)")
    bits.add_argument("--objective", default="accuracy", help=f"one of {', '.join(OBJECTIVES)}")
    bits.add_argument("--cost", default="bops", help=f"what is limited: one of {', '.join(COSTS)}")
    bits.add_argument(
        "--budget",
        nargs="+",
        action="extend",
        metavar="LIMIT",
        help="uniform bits or a number: 3bit,60000 are two searches; "
        "bytes=4bit bops=3.5bit are limits that hold together (default: 4bit)",
    )
    for side in ("weights", "activations"):
        text = f"widths of the {side} to choose from, as 2,4; one fixes them (default: all)"
        bits.add_argument(f"--{side}", type=_widths, default=(), metavar="BITS", help=text)
    bits.add_argument(
        "--latency-table", type=Path, help="JSON {layer: {mode: milliseconds}}, for --cost latency"
    )
    bits.add_argument("--evaluations", type=int, default=100, help="candidates for each method (100)")
    text = "the most that a method may take for one budget; 0: no limit (default: 0)"
    bits.add_argument("--seconds", type=float, default=0.0, help=text)
    text = "L2 in pixels, for --objective certified (0.25); L-infinity of the inputs, for proved (0.01)"
    bits.add_argument("--radius", type=float, help=text)
    bits.add_argument("--robust-images", type=int, default=20, help="images to certify, for --objective acr")
    bits.add_argument("--samples", type=int, default=100, help="noisy images each, for --objective acr")
    _norms(bits)
    text = "score on images with noise of this sigma; norms are fitted with it, too (0)"
    bits.add_argument("--noise", type=float, default=0.0, help=text)
    _smoothing(bits, n=1000)
    _norms(_part(parts, "sensitivity", "one layer at a time in each mode", images=500))
    certify = _part(parts, "certify", "certified radii of modes or of an assignment", images=100)
    add_bits(certify, default="all modes")
    certify.add_argument("--from", dest="first", help="certify incrementally from this mode")
    text = "noisy images per image, with --from (default: a quarter of --n, at least 100)"
    certify.add_argument("--samples", type=int, help=text)
    add_engine(
        certify,
        default="torch",
        text="what answers: the network itself (torch), or what is exported of it on",
    )
    _smoothing(certify, n=100_000)
    _noisy_norms(certify)
    predict = _part(parts, "predict", "what the smoothed network answers, or that it abstains")
    predict.add_argument("inputs", nargs="+", metavar="IMAGE", help="image files, folders, globs; data=NAME")
    add_bits(predict, default="all modes")
    _smoothing(predict, n=1000)
    _noisy_norms(predict)
    predict.add_argument("--json", action="store_true", help="print JSON, one object per image and mode")


def _part(
    parts: argparse._SubParsersAction, name: str, text: str, images: int = 0
) -> argparse.ArgumentParser:
    """A part of the command; one that looks at no images of the data writes nothing, either."""
    parser = parts.add_parser(name, help=text, description=text)
    add_checkpoint(parser)
    parser.add_argument("--seed", type=int, default=0, help="of noise and of methods that draw at random")
    parser.set_defaults(run=run, images=1, output=None)
    if images:
        add_data(parser)
        shown = "evenly spread over the set (%(default)s)"
        parser.add_argument("--images", type=int, default=images, help=shown)
        add_output(parser, "for what is found; default: search/ beside the checkpoint")
    return parser


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(check_bits(int(word)) for word in listed(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of bit-widths such as 2,4: {error}") from None


def _smoothing(parser: argparse.ArgumentParser, n: int) -> None:
    parser.add_argument("--sigma", type=float, default=0.25, help="noise, in pixels of [0, 1] (0.25)")
    parser.add_argument("--n", type=int, default=n, help="noisy images that bound a radius (%(default)s)")
    parser.add_argument("--n0", type=int, default=100, help="noisy images per image that pick the class")
    parser.add_argument("--alpha", type=float, default=0.001, help="failure probability of a certificate")


def _norms(parser: argparse.ArgumentParser) -> None:
    text = "training batches to fit a candidate's norms with; 0: the modes' own norms (default: 2)"
    parser.add_argument("--norm-batches", type=int, default=2, help=text)


def _noisy_norms(parser: argparse.ArgumentParser) -> None:
    text = "training batches with noise to fit the modes' norms with; 0: as they are (default: 0)"
    parser.add_argument("--norm-batches", type=int, default=0, help=text)


def _check_noise(args: argparse.Namespace) -> None:
    if not 0 <= args.noise < float("inf"):
        raise ValueError(f"--noise is {args.noise}; it is a standard deviation, finite and at least 0")
    if args.noise and args.objective in ("acr", "certified"):
        raise ValueError(f"--objective {args.objective} has noise of its own; give --sigma, not --noise")


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then search or certify."""
    if args.images < 1:
        raise ValueError(f"--images is {args.images}; at least 1 is needed")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; it is at least 0")
    if args.part == "bits":
        if args.objective not in OBJECTIVES:
            raise ValueError(unknown("objective", args.objective, OBJECTIVES))
        check_listed("method", args.methods, METHODS)
        if args.cost not in COSTS:
            raise ValueError(unknown("cost", args.cost, COSTS))
        words = args.budget or ["4bit"]
        # what follows --budget is taken for its words, up to the next option
        args.data += [word for word in words if word.startswith(DATA_WORDS)]
        args.budgets = read_budgets([word for word in words if word not in args.data], args.cost)
        if args.latency_table is not None:
            read_json(args.latency_table, "table of latencies")
        elif any("latency" in budget for budget in args.budgets):
            raise ValueError(
                "a budget of latency needs --latency-table FILE; to measure one: "
                "quantizable cost CHECKPOINT --engine openvino --layer-latency FILE"
            )
        if args.radius is not None and not 0 <= args.radius < float("inf"):
            raise ValueError(f"--radius is {args.radius}; it is a number of at least 0")
        _check_noise(args)
        if args.evaluations < 1:
            raise ValueError(f"--evaluations is {args.evaluations}; at least 1 is needed")
    if args.part == "predict":
        args.data = [word for word in args.inputs if word.startswith(DATA_WORDS)]
        args.found = find_images(word for word in args.inputs if word not in args.data)
    if args.part == "certify" and args.engine not in ENGINES:
        raise ValueError(unknown("engine", args.engine, ENGINES))
    if getattr(args, "first", None) is not None:
        parse_modes([args.first])  # neither a file nor an assignment: a mode
    asked = {"certify": ("bits", "first"), "predict": ("bits",)}.get(args.part, ())
    for modes in [getattr(args, name) for name in asked] or [None]:
        check_network(args.checkpoint, modes, args.data)
    if getattr(args, "objective", None) == "shifts":
        from quantizable.assess.shift_measure import shift_disagreement

        args.shifts = shift_disagreement
    from quantizable.search import command, command_certify

    parts = {
        "bits": command.run_bits,
        "sensitivity": command.run_sensitivity,
        "certify": command_certify.run_certify,
        "predict": command_certify.run_predict,
    }
    return parts[args.part](args)
