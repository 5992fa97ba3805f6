"""``quantizable calibrate NETWORK IMAGE...``: low modes for a trained network, without labels or training."""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.bits import FLOAT_BITS, BitMode, parse_modes
from quantizable.calibrate import active_batch_norms
from quantizable.models.switchable import build_network
from quantizable.network import QuantizableNetwork
from quantizable.nn.missing_modes import nearest
from quantizable.report.files import make_folder
from quantizable.storage.load import load
from quantizable.storage.outputs import tensors_in
from quantizable.storage.preprocessing import preprocessing, read_images
from quantizable.storage.qz import integer_modes, save_qz
from quantizable.storage.save import save_checkpoint

BITS = (4, 6, 8)
IMAGENET_CLASSES = 1000  # of published weights that do not say otherwise
BATCH = 8  # images; small, so that reconstruction takes many steps


def run(args: argparse.Namespace) -> int:
    """Calibrate, fit norms, reconstruct if asked to, print how close each mode is to the highest, write."""
    count = min(args.count, len(args.images))
    paths = [args.images[i * len(args.images) // count] for i in range(count)]
    make_folder(args.output)
    targets = [args.output / f"model.{name}" for name in args.formats]
    if args.trained and Path(args.network).resolve() in [path.resolve() for path in targets]:
        raise ValueError(f"{args.network} would be replaced by what is made of it; give --output a folder")
    network = trained(args) if args.trained else published(args)
    if args.reconstruct and not network.modes[-1].is_float:
        raise ValueError(
            f"--reconstruct compares with mode 32; the highest of the network is {network.modes[-1]}"
        )
    if "qz" in args.formats and not integer_modes(network):
        raise ValueError("no mode has integer weights, which is what a .qz file holds; give --bits 4,8")
    batches = [*read_images(paths, preprocessing(network)).split(BATCH)]
    network.calibrate_lacking(batches, len(batches))
    if active_batch_norms(network):
        network.reestimate_norms(batches, [mode for mode in network.modes if not mode.is_float], len(batches))
    kept = args.output / "reconstruction.pt"
    if args.reconstruct:
        network.reconstruct(batches, len(batches), passes=args.passes, seed=args.seed, progress=kept)
    show(network, batches)
    for name, path in zip(args.formats, targets, strict=True):
        write = {"ckpt": save_checkpoint, "qz": save_qz}[name]
        write(network, path)
        print(path)
    if args.reconstruct:
        kept.unlink(missing_ok=True)  # what it holds is in the files now
    return 0


def trained(args: argparse.Namespace) -> QuantizableNetwork:
    """The network of a checkpoint, with the modes that ``--bits`` names and it lacks; what it has stays."""
    network = load(Path(args.network))
    for mode in args.modes:
        if mode not in network.modes:
            network.add_mode(mode, like=nearest(mode, network.modes))
    return network


def published(args: argparse.Namespace) -> QuantizableNetwork:
    """A network by name with its published weights, or those of ``--weights``."""
    config = timm.get_pretrained_cfg(args.network) if timm.is_model(args.network) else None
    classes = config.num_classes if config else IMAGENET_CLASSES
    modes = {*(args.modes or parse_modes(BITS)), BitMode.parse(FLOAT_BITS)}
    network = build_network(
        args.network, classes, [mode.name for mode in sorted(modes)], args.quantizer,
        weights=args.weights, model_options={"pretrained": args.weights is None},
    ).eval()  # fmt: skip
    network.info = {"model": args.network, "num_classes": classes, "model_options": {}}
    return network


@torch.inference_mode()
def show(network: QuantizableNetwork, batches: list[Tensor]) -> None:
    """Print of each mode how often it answers as the highest does, and how far its outputs are off."""
    top = network.modes[-1]
    with network.at_bits(top):
        wanted = [_logits(network, x) for x in batches]
    table = Table("bits", "same answer, %", "relative error, %", title=f"against mode {top.name}")
    for mode in network.modes[:-1]:
        with network.at_bits(mode):
            found = [_logits(network, x) for x in batches]
        same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(found, wanted, strict=True))
        off = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
        size = sum(float(b.square().sum()) for b in wanted)
        share = 100 * same / sum(len(b) for b in wanted)
        table.add_row(mode.name, f"{share:.1f}", f"{100 * (off / size) ** 0.5:.1f}")
    Console().print(table)


def _logits(network: QuantizableNetwork, x: Tensor) -> Tensor:
    """The first output, one row an image."""
    first: Tensor = next(iter(tensors_in(network(x))))
    return first.flatten(1)
