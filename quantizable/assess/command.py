"""``quantizable assess CHECKPOINT``: how, where and how often the modes disagree."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

EXAMPLES = """examples:
  quantizable assess best.ckpt data=cifar10 data.root=DATA --images 1000 --output report
  quantizable assess best.ckpt --corruptions fog,snow --severities 1,3,5 --search 200 --budget 200
  quantizable assess samson.ckpt data=samson data.file=Samson.mat --search 64 --psnr 20
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "assess",
        help="how, where and how often the modes of a network disagree",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="for example checkpoints/<run>/best.ckpt")
    parser.add_argument(
        "data", nargs="*", metavar="data=NAME data.KEY=VALUE", help="default: the data it was trained on"
    )
    add = parser.add_argument
    add(
        "--bits",
        help="modes and assignment files (.yaml), separated by commas; the highest mode is the reference; "
        "default: all modes",
    )
    add("--images", type=int, help="test images, chosen at random (default: all)")
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
    add("--search", type=int, default=0, metavar="SEEDS", help="search from so many test images")
    add("--budget", type=int, default=200, help="queries per seed (default: 200)")
    add("--linf", type=float, default=8, help="limit of pixel searchers in 1/255 (default: 8)")
    add("--psnr", type=float, default=20.0, help="limit of relations in dB (default: 20)")
    add("--repair", type=int, default=0, metavar="STEPS", help="fine-tune each low mode so long")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")
    add("--output", type=Path, default=Path("assessment"), help="folder (default: assessment)")
    add("--logger", choices=("none", "wandb"), default="none", help="also log the tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Assess, print and write; 130 after Ctrl-C, with what was found until then written all the same.

    Raises:
        ImportError: a library of the extra ``assess`` is missing; said before any work.
    """
    for library in ("skimage", "pymoo", "cma"):
        try:
            import_module(library)
        except ImportError as error:
            raise ImportError(f"{error}; pip install 'quantizable[assess]'") from error
    # imported here: the other commands work without these libraries
    from quantizable.assess import assessment

    return assessment.run(args)
