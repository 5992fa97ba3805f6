"""``quantizable verify``: prove or refute that two modes of a network stay close over a box."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from quantizable.cli.arguments import add_bits, add_data, add_output, check_network, read_json
from quantizable.storage.network_file import check_file

EXAMPLES = """examples:
  quantizable verify checkpoint.ckpt --bits 32,4 --inputs x.npy --radius 0.01 --eps 0.5
  quantizable verify p1.npz --bits 32,8 --inputs pixels.npy --radius 3 --eps 1 --output report/
  quantizable verify checkpoint.ckpt --bits 4 --robust --inputs x.npy --radius 0.01
  quantizable verify checkpoint.ckpt --question agreement --bits 32,8,4,2 --inputs x.npy --radius 0.01
  quantizable verify checkpoint.ckpt --question agreement --line brightness --inputs pixels.npy --radius 0.1
  quantizable verify checkpoint.ckpt --question error --bits 32,8,4 --inputs x.npy --radius 0.01
  quantizable verify checkpoint.ckpt data.root=data --bits 32,found.yaml --inputs x.npy --radius 0.01 --eps 1
  quantizable verify --check report/certificate-0.json
"""

DECISIONS = ("difference", "agreement", "robustness")
# of each option that not every question looks at: its default, and the questions that do
OF_QUESTIONS = {
    "eps": (None, ("difference",)),
    "line": (None, ("agreement",)),
    "largest_radius": (False, ("agreement",)),
    "confidence": (0.0, ("agreement",)),
    "bounds_only": (False, DECISIONS),
    "branch": (False, DECISIONS),
    "time_limit": (60.0, DECISIONS),
    "total_time": (None, DECISIONS),
    "processes": (1, DECISIONS),
    "resume": (False, DECISIONS),
    "minimum": (None, (*DECISIONS, "error")),
    "maximum": (None, (*DECISIONS, "error")),
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="prove how far two bit modes can differ around given inputs",
        description="Prove or refute, for every input of a box around each given one, that two "
        "modes of a network differ by less than eps in the predicted class's output, or that modes give "
        "the same class.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "network",
        nargs="?",
        type=Path,
        help="a checkpoint or .qz file of this library, or an .npz of a fully connected ReLU network "
        "(W0, b0, ...) on pixels 0..255, whose modes are fixed point",
    )
    add_data(parser, "to fit the norms of an assignment with; ")
    parser.add_argument("--check", type=Path, metavar="CERTIFICATE", help="recompute and compare")
    add_bits(parser, default="32,4 (with --robust give one)", value="32,4")
    parser.add_argument("--inputs", type=Path, help=".npy of inputs (n, *input_shape)")
    parser.add_argument("--radius", type=float, help="half width of the box, in input units")
    parser.add_argument("--minimum", type=float, help="smallest legal input")
    parser.add_argument("--maximum", type=float, help="largest legal input")
    parser.add_argument("--eps", type=float, help="allowed difference of the output, above 0")
    parser.add_argument(
        "--question",
        choices=("difference", "agreement", "robustness", "error"),
        default="difference",
        help="difference: the output moves by less than eps; agreement: all modes give the first's class; "
        "robustness: the class of one mode cannot change; error: bounds of every logit's and margin's error",
    )
    parser.add_argument("--robust", action="store_true", help="short for --question robustness")
    _add_agreement(parser)
    parser.add_argument(
        "--execution",
        choices=("real", "float32", "integers"),
        default="real",
        help="what runs the networks, so that the answer holds for it: real arithmetic, float32 of torch, or "
        "the integers of the export",
    )
    _add_effort(parser)
    add_output(parser, "for report and certificates; default: nothing is written")
    parser.set_defaults(run=run, **{name: default for name, (default, _) in OF_QUESTIONS.items()})


def _add_agreement(parser: argparse.ArgumentParser) -> None:
    """What can be asked of agreement alone."""
    parser.add_argument(
        "--largest-radius",
        action="store_true",
        help="with agreement: also the largest radius, up to --radius, for which bounds prove it",
    )
    parser.add_argument(
        "--line",
        choices=("brightness", "contrast"),
        help="with agreement: --inputs are images in [0, 1], and instead of a box around each it is about "
        "those made brighter by, or with their contrast multiplied by 1 plus, from -radius to radius",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="with agreement: only of inputs whose class has in the first mode a probability of at least P, "
        "from 0.5 to below 1",
    )


def _add_effort(parser: argparse.ArgumentParser) -> None:
    """How hard to try, and for how long."""
    parser.add_argument("--bounds-only", action="store_true", help="no MILP")
    parser.add_argument(
        "--branch",
        action="store_true",
        help="split undecided neurons and bound the parts, many at a time, with the MILP at the leaves only",
    )
    parser.add_argument("--time-limit", type=float, help="seconds for each query")
    parser.add_argument("--total-time", type=float, help="seconds for all; default: no limit")
    parser.add_argument("--processes", type=int, help="queries asked at the same time")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take the verdicts that certificates of the same question in --output hold, and ask the rest",
    )


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then verify. Exit status 0: all proved (or confirmed); 1: not."""
    if args.check is None:
        check_question(args)
    else:
        read_json(args.check, "certificate of quantizable verify")
        if args.network is not None:
            check_file(args.network)
    from quantizable.verify.command import run

    return run(args)


def check_question(args: argparse.Namespace) -> None:
    """``ValueError`` or ``FileNotFoundError`` for what cannot be asked, as its words and files tell."""
    if args.network is not None:
        _check_network(args)
    for name in ("network", "inputs", "radius"):
        if getattr(args, name) is None:
            raise ValueError(f"{name} is missing; see quantizable verify --help")
    question = "robustness" if args.robust else args.question
    modes = [mode.strip() for mode in args.bits.split(",")]
    wanted, words = {
        "robustness": (len(modes) == 1, "one mode with --robust"),
        "difference": (len(modes) == 2, "two modes, as --bits 32,4"),
        "agreement": (
            len(modes) > 1,
            "two modes or more, as --bits 32,8,4,2: each is compared with the first",
        ),
        "error": (len(modes) > 1, "two modes or more, as --bits 32,8,4,2"),
    }[question]
    if not wanted:
        raise ValueError(f"--bits {args.bits}: give {words}")
    _check_options(args, question)
    if args.line:
        _check_line(args)
    if question == "difference" and (args.eps is None or not 0 < args.eps < float("inf")):
        raise ValueError(f"eps {args.eps} is not allowed; give --eps above 0")
    if args.confidence and not 0.5 <= args.confidence < 1:
        raise ValueError(f"confidence {args.confidence} is not allowed; it must be from 0.5 to below 1")
    for name, seconds in (("time limit", args.time_limit), ("total time", args.total_time)):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name} {seconds} is not allowed; give seconds above 0")
    if args.processes < 1:
        raise ValueError(f"processes {args.processes} is not allowed; it must be 1 or more")
    if args.resume and args.output is None:
        raise ValueError("--resume reads the certificates in a folder; give it with --output")
    if not args.inputs.is_file():
        raise FileNotFoundError(f"no input file {args.inputs}; give an .npy of shape (n, *input_shape)")
    with args.inputs.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(f"{args.inputs} is no .npy of numbers; numpy.save writes them")


def _check_options(args: argparse.Namespace, question: str) -> None:
    """``ValueError`` for an option that would not be looked at."""
    for name, (default, questions) in OF_QUESTIONS.items():
        if getattr(args, name) == default:
            continue
        option = f"--{name.replace('_', '-')}"
        if question not in questions:
            raise ValueError(
                f"{option} is of no use to the question {question}; leave it out, or give --question "
                f"{' or '.join(questions)}"
            )
        if args.line and name not in ("line", "time_limit"):
            raise ValueError(f"{option} is about boxes; leave it out with --line")


def _check_line(args: argparse.Namespace) -> None:
    if not 0 <= args.radius < float("inf"):
        raise ValueError(f"radius {args.radius} is not allowed; it must be 0 or more")
    if args.network.suffix == ".npz":
        raise ValueError(
            "--line takes images of a checkpoint or .qz file; an .npz has no normalization of them"
        )


def _check_network(args: argparse.Namespace) -> None:
    if args.network.suffix != ".npz":
        check_network(args.network, args.bits, args.data)
        return
    check_file(args.network)
    if not zipfile.is_zipfile(args.network):
        raise ValueError(f"{args.network} is no .npz of numbers; numpy.savez writes them")
