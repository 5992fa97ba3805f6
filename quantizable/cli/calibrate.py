"""``quantizable calibrate NETWORK IMAGE...``: low modes for a trained network, without labels or training."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantizable.bits import parse_modes
from quantizable.cli.arguments import add_bits, add_output, check_listed
from quantizable.interface.choices import CALIBRATED
from quantizable.interface.model_names import check_model_name
from quantizable.interface.words import listed
from quantizable.storage.input_files import check_images, find_images
from quantizable.storage.network_file import check_checkpoint

EXAMPLES = """examples:
  quantizable calibrate resnet18 photos/ --bits 4,6,8 --reconstruct
  quantizable calibrate resnet20 images/ --weights resnet20.th --format ckpt,qz --output resnet20
  quantizable calibrate checkpoints/run/best.ckpt images/ --bits 3
"""
FILES = (".ckpt", ".qz", ".pt", ".pth")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "calibrate", help="low modes for a trained network from some images, without labels", epilog=EXAMPLES
    )
    text = "a checkpoint of training, or the name of a network (timm's, or torchvision:NAME)"
    parser.add_argument("network", help=text)
    parser.add_argument(
        "images", nargs="+", help="image files, folders, globs, or - for a list on standard input"
    )
    add_bits(parser, default="of a checkpoint its own, else 4,6,8", files=False)
    add = parser.add_argument
    add("--weights", type=Path, metavar="FILE", help="float weights; default: the published ones")
    add("--quantizer", default="lsq", help="of a network by name (default: lsq)")
    add("--count", type=int, default=200, help="images to use, evenly spread over those given (default: 200)")
    add("--reconstruct", action="store_true", help="also round weights by outputs, and learn; takes minutes")
    add("--passes", type=int, default=3, help="of --reconstruct over the images; 0: round alone (default: 3)")
    add("--seed", type=int, default=0, help="of --reconstruct (default: 0)")
    add("--format", default="ckpt", help=f"separated by commas: {', '.join(CALIBRATED)} (default: ckpt)")
    add_output(parser, "for model.ckpt and model.qz; default: calibrated", "calibrated")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then calibrate."""
    check_listed("format", args.format, CALIBRATED)
    for option, value, least in (("--count", args.count, 1), ("--passes", args.passes, 0)):
        if value < least:
            raise ValueError(f"{option} is {value}; at least {least} is needed")
    if args.bits is not None and not listed(args.bits):
        raise ValueError("--bits names no mode; give some, as --bits 4,8")
    args.modes = parse_modes(listed(args.bits)) if args.bits else []
    args.formats = listed(args.format)
    for name in CALIBRATED:
        left = args.output / f"model.{name}"
        if name not in args.formats and left.exists():
            raise ValueError(
                f"{left} is of an earlier calibration and would lie beside another network; give another "
                f"--output, or --format {','.join(CALIBRATED)} to replace both"
            )
    path = Path(args.network)  # a folder may have the name of a network: --output resnet18
    args.trained = path.suffix in FILES or path.is_file() or (path.is_dir() and path.name != args.network)
    if args.trained:
        check_checkpoint(Path(args.network))
        if args.weights:
            raise ValueError(f"--weights goes with the name of a network; {args.network} has its own")
    if args.weights and not args.weights.is_file():
        raise FileNotFoundError(f"there is no file of weights at {args.weights}")
    if not args.trained:
        check_model_name(args.network)
    args.images = find_images(args.images)
    check_images(args.images, decoded=16)
    from quantizable.deploy.command_calibrate import run

    return run(args)
