"""``quantizable evaluate CHECKPOINT data=cifar10 --bits 2,4,8,32``: accuracy of any mode of a checkpoint."""

from __future__ import annotations

import argparse
import inspect
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from quantizable.bits import BitMode, parse_modes
from quantizable.checkpoint import load
from quantizable.data import DATAMODULES, ImageDataModule
from quantizable.network import QuantizableNetwork
from quantizable.results import plot_modes, print_table, write_json


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("evaluate", help="accuracy of a checkpoint in any of its modes")
    parser.add_argument("checkpoint", type=Path, help="for example checkpoints/<run>/best.ckpt")
    parser.add_argument(
        "data", nargs="*", metavar="data=NAME data.KEY=VALUE", help="default: the data it was trained on"
    )
    parser.add_argument("--bits", help="modes, separated by commas; default: all that the network has")
    parser.add_argument(
        "--set", choices=("test", "val"), default="test", help="images to use (default: test)"
    )
    parser.add_argument("--output", type=Path, help="folder for results.json and modes.png")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; write results.json and modes.png if asked to."""
    network = load(args.checkpoint)
    modes = network.modes if args.bits is None else [network.check_mode(m) for m in parse_modes(args.bits)]
    datamodule = make_datamodule(args.data, network.info)
    check_fit(network, datamodule)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    datamodule.prepare_data()
    datamodule.setup("test" if args.set == "test" else "fit")
    loader: Any = datamodule.test_dataloader() if args.set == "test" else datamodule.val_dataloader()
    results = evaluate(network, track(loader, "evaluating", total=len(loader), transient=True), modes)
    print_table(results, f"{args.checkpoint}: {type(datamodule).__name__}, {args.set} set")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(
            args.output / "results.json",
            {"checkpoint": str(args.checkpoint), "set": args.set, "modes": results},
        )
        plot_modes(args.output / "modes.png", {"": results}, args.checkpoint.parent.name)
    return 0


def make_datamodule(words: Sequence[str], trained: Mapping[str, Any]) -> ImageDataModule:
    """The data module that ``data=NAME data.KEY=VALUE ...`` asks for, else that of training.

    Args:
        words: from the command line.
        trained: ``network.info``, for the name and the sizes that are not given.

    Raises:
        ValueError: a word of another form, an unknown name or key.
    """
    for word in words:
        if "=" not in word or not (word.startswith(("data=", "data."))):
            raise ValueError(
                f"{word!r} is not understood; write data=NAME and data.KEY=VALUE, as for train.py"
            )
    name = next((w.partition("=")[2] for w in words if w.startswith("data=")), trained.get("data"))
    if name not in DATAMODULES:
        raise ValueError(f"data set {name!r} is unknown; choose data= from {', '.join(DATAMODULES)}")
    kind = DATAMODULES[name]
    takes = inspect.signature(kind).parameters
    sizes = [k for k in ("image_size", "in_chans", "num_classes") if k in takes and trained.get(k)]
    asked = OmegaConf.from_dotlist([w.removeprefix("data.") for w in words if w.startswith("data.")])
    options: Any = {key: trained[key] for key in sizes} | dict(asked)
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"data set {name!r}: {error}") from error


def check_fit(network: QuantizableNetwork, datamodule: ImageDataModule) -> None:
    """``ValueError`` if the data has other classes or channels than the network was trained for."""
    for what in ("num_classes", "in_chans"):
        trained, given = network.info.get(what), getattr(datamodule, what)
        if trained is not None and trained != given:
            raise ValueError(
                f"the network was trained with {what}={trained}, {type(datamodule).__name__} has {given}; "
                "choose the data it was trained on, or one like it"
            )


@torch.inference_mode()
def evaluate(
    network: QuantizableNetwork, loader: Iterable[tuple[Tensor, Tensor]], modes: Sequence[BitMode]
) -> dict[str, dict[str, float]]:
    """Loss, top-1, top-5 and disagreement with the highest mode, as fractions, by mode name.

    Args:
        network: in evaluation mode.
        loader: yields (images ``[B, C, H, W]``, labels ``[B]``).
        modes: modes of the network; the highest one of the network runs too, as the reference.
    """
    top = network.modes[-1]
    sums = {mode.name: dict.fromkeys(("loss", "top1", "top5", "disagreement"), 0.0) for mode in modes}
    count = 0
    for images, labels in loader:
        count += len(labels)
        logits = {}
        for mode in {*modes, top}:
            with network.at_bits(mode):
                logits[mode] = network(images).float()
        reference = logits[top].argmax(1)
        for mode in modes:
            z, into = logits[mode], sums[mode.name]
            ranked = z.topk(min(5, z.shape[1])).indices
            into["loss"] += F.cross_entropy(z, labels, reduction="sum").item()
            into["top1"] += (ranked[:, 0] == labels).sum().item()
            into["top5"] += (ranked == labels[:, None]).any(1).sum().item()
            into["disagreement"] += (z.argmax(1) != reference).sum().item()
    if count == 0:
        raise ValueError("the data has no images")
    return {name: {key: value / count for key, value in values.items()} for name, values in sums.items()}
