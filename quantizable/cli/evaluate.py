"""``quantizable evaluate CHECKPOINT data=cifar10 --bits 2,4,8,32``: accuracy of any mode of a checkpoint."""

from __future__ import annotations

import argparse

from quantizable.cli.arguments import add_bits, add_checkpoint, add_data, add_output, check_network


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("evaluate", help="accuracy of a checkpoint in any of its modes")
    add_checkpoint(parser)
    add_data(parser)
    add_bits(parser, default="all modes of the network")
    parser.add_argument(
        "--set", choices=("test", "val"), default="test", help="images to use (default: test)"
    )
    parser.add_argument(
        "--norm-batches",
        type=int,
        default=0,
        help="training batches that the norms of each mode are fitted to first; default 0: as trained",
    )
    add_output(parser, "for results.json and modes.png; default: nothing is written")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check what needs no network, then evaluate."""
    if args.norm_batches < 0:
        raise ValueError(f"--norm-batches is {args.norm_batches}; it is 0 or more")
    if args.output and (args.output / "config.yaml").is_file():
        raise ValueError(
            f"{args.output} holds the results of a training, which would be replaced; give another folder, "
            f"as {args.output / args.set}"
        )
    check_network(args.checkpoint, args.bits, args.data)
    from quantizable.measure.evaluate import run

    return run(args)
