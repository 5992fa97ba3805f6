"""``quantizable assess CHECKPOINT``: how, where and how often the modes disagree."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from quantizable.cli.arguments import (
    add_bits,
    add_checkpoint,
    add_data,
    add_output,
    check_data,
    check_network,
)

EXAMPLES = """examples:
  quantizable assess best.ckpt data=cifar10 data.root=DATA --images 1000 --output report
  quantizable assess best.ckpt --corruptions fog,snow --severities 1,3,5 --search 200 --budget 200
  quantizable assess samson.ckpt data=samson data.file=Samson.mat --search 64 --psnr 20
  quantizable assess lstm.ckpt --corruptions typos,synonyms --natural yelp data=text data.test=yelp.txt
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "assess",
        help="how, where and how often the modes of a network disagree",
        epilog=EXAMPLES,
    )
    add_checkpoint(parser)
    add_data(parser)
    add_bits(parser, default="all modes; the highest is the reference")
    add = parser.add_argument
    add("--images", type=int, help="test images or texts, chosen at random (default: all)")
    add("--corruptions", default="all", help="names separated by commas, all (default) or none")
    add("--severities", default="1,2,3,4,5", help="of the corruptions (default: 1,2,3,4,5)")
    add(
        "--natural",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME",
        help="a naturally shifted second set: NAME data=... data.KEY=..., as for the first; may be repeated",
    )
    add("--search", type=int, default=0, metavar="SEEDS", help="search from so many test images (no texts)")
    add("--budget", type=int, default=200, help="queries per seed (default: 200)")
    add("--linf", type=float, default=8, help="limit of pixel searchers in 1/255 (default: 8)")
    add("--psnr", type=float, default=20.0, help="limit of relations in dB (default: 20)")
    add("--repair", type=int, default=0, metavar="STEPS", help="fine-tune each low mode so long")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")
    add_output(parser, "for the report; default: assessment", "assessment")
    add("--logger", choices=("none", "wandb"), default="none", help="also log the tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then assess.

    Raises:
        ImportError: a library of the extra ``assess`` is missing; said before any work.
    """
    for library in ("skimage", "pymoo", "cma"):
        if find_spec(library) is None:
            raise ImportError(f"assess needs {library}: pip install 'quantizable[assess]'")
    if args.repair and args.checkpoint.suffix == ".qz":
        raise ValueError(
            f"--repair trains float weights, and {args.checkpoint} holds integers; give its checkpoint"
        )
    check_network(args.checkpoint, args.bits, args.data)
    for name, *words in args.natural:
        if not words:
            raise ValueError(
                f"--natural {name}: say what it is, as --natural {name} data=folder data.root=FOLDER"
            )
        check_data(words, {})
    from quantizable.assess.assessment import run

    return run(args)
