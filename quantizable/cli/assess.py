"""``quantizable assess CHECKPOINT``: how, where and how often the modes, or any two models, disagree."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from quantizable.assess.model_name import NETWORKS, check_name, read_name
from quantizable.cli.arguments import (
    add_bits,
    add_checkpoint,
    add_data,
    add_output,
    check_data,
    check_network,
)
from quantizable.interface.words import listed

EXAMPLES = """examples:
  quantizable assess best.ckpt data=cifar10 data.root=DATA --images 1000 --output report
  quantizable assess best.ckpt --corruptions fog,snow --severities 1,3,5 --search 200 --budget 200
  quantizable assess samson.ckpt data=samson data.file=Samson.mat --search 64 --psnr 20
  quantizable assess model.onnx --against model.xml data=cifar10 data.root=DATA --search 64
  quantizable assess model.qz:4 --against package.module:function data.root=DATA --search 64
  quantizable assess lstm.ckpt --corruptions typos,synonyms --natural yelp data=text data.test=yelp.txt
"""


DESCRIPTION = """How, where and how often the modes of a network disagree; with --against, two models:
a .qz or checkpoint (its highest mode, or FILE:BITS), .onnx, OpenVINO's .xml, TorchScript's .pt,
torch.export's .pt2, .tflite, or package.module:function. The last is code that you name: the module is
imported, and the function gets images (B, C, H, W) in [0, 1], or, if it takes nothing, gives the model.
The graphs of the other files run on their engines. Of them torch.export alone can run code of the file
when it is loaded; it needs --trust."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "assess",
        help="how, where and how often the modes of a network, or two models, disagree",
        description=DESCRIPTION,
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
    add("--prove", type=float, metavar="SECONDS", help="try so long to prove what the L-infinity search left")
    add("--repair", type=int, default=0, metavar="STEPS", help="fine-tune each low mode so long")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")
    add_output(parser, "for the report; default: assessment", "assessment")
    _add_pair(parser)
    add("--logger", choices=("none", "wandb"), default="none", help="also log the tables")
    parser.set_defaults(run=run)


def _add_pair(parser: argparse.ArgumentParser) -> None:
    """A second model, and what models of other makers need."""
    add = parser.add_argument
    add("--against", metavar="SECOND", help="compare the first model, the reference, with this one")
    add("--surrogate", metavar="MODEL", help="gives the gradients that a model of the pair does not have")
    add(
        "--mean",
        type=_numbers,
        help="of images for other makers' files, as 0.5,0.5,0.5; default: the data's",
    )
    add("--std", type=_numbers, help="likewise; --mean 0 --std 1 leaves pixels in [0, 1]")
    add("--trust", action="store_true", help="load .pt2 files, which may run code that is in them")


def _numbers(text: str) -> list[float]:
    return [float(word) for word in listed(text)]


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then assess.

    Raises:
        ImportError: a library of the extra ``assess`` is missing; said before any work.
    """
    for library in ("skimage", "pymoo", "cma"):
        if find_spec(library) is None:
            raise ImportError(f"assess needs {library}: pip install 'quantizable[assess]'")
    if args.against:
        return _run_pair(args)
    if args.surrogate or args.mean or args.std:
        raise ValueError("--surrogate, --mean and --std are about two models; give the second by --against")
    if args.prove is not None and not (args.prove > 0 and args.search):
        raise ValueError("--prove decides what a search left open; give seconds above 0, and --search SEEDS")
    if args.repair and args.checkpoint.suffix == ".qz":
        raise ValueError(
            f"--repair trains float weights, and {args.checkpoint} holds integers; give its checkpoint"
        )
    if args.prove is not None and find_spec("highspy") is None:
        raise ImportError("--prove needs highspy: pip install 'quantizable[verify]'")
    check_network(args.checkpoint, args.bits, args.data)
    _check_natural(args)
    from quantizable.assess.assessment import run

    return run(args)


def _check_natural(args: argparse.Namespace) -> None:
    for name, *words in args.natural:
        if not words:
            raise ValueError(
                f"--natural {name}: say what it is, as --natural {name} data=folder data.root=FOLDER"
            )
        check_data(words, {})
    names = ["clean", *(name for name, *_ in args.natural)]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--natural {doubles[0]}: there is a set of that name already; give another name")


def _run_pair(args: argparse.Namespace) -> int:
    """Check what needs no model, then compare two."""
    for option in ("bits", "repair", "prove"):
        if getattr(args, option):
            raise ValueError(f"--{option} is about one network; with --against name a mode as FILE:BITS")
    if args.std and not all(value > 0 for value in args.std):
        raise ValueError("--std must be above 0")
    names = [read_name(str(text)) for text in (args.checkpoint, args.against, args.surrogate) if text]
    if names[0].text == names[1].text:
        raise ValueError(f"{names[0].text} is compared with itself; give two models")
    for name in names:
        if name.kind in NETWORKS:
            assert name.path is not None
            check_network(name.path, name.part or None, args.data)
        check_name(name, args.trust)
    if not any(word.startswith("data=") for word in args.data) and not any(n.kind in NETWORKS for n in names):
        raise ValueError("say which images, as data=cifar10 data.root=DATA; these models do not")
    check_data(args.data, {})
    _check_natural(args)
    from quantizable.assess.pair_assessment import run

    return run(args)
