"""``quantizable evaluate CHECKPOINT data=cifar10 --bits 2,4,8,32``: accuracy of any mode of a checkpoint."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from quantizable.bits import FLOAT, BitMode
from quantizable.calibrate import active_batch_norms
from quantizable.data.choice import validation_loader
from quantizable.interface.progress import progress
from quantizable.measure.classification import METRICS, image_metrics
from quantizable.network import QuantizableNetwork
from quantizable.report.files import finite, make_folder, write_json
from quantizable.report.plots import plot_modes
from quantizable.report.tables import print_table
from quantizable.storage.load import load
from quantizable.storage.network_data import trained_data
from quantizable.storage.selection import Chosen, choose


def run(args: argparse.Namespace) -> int:
    """Print the table; write results.json and modes.png if asked to."""
    network = load(args.checkpoint)
    if args.norm_batches and not active_batch_norms(network):
        raise ValueError(f"{args.checkpoint} has no batch norms to fit; leave out --norm-batches")
    datamodule = trained_data(network, args.data)
    if args.output:
        make_folder(args.output)
    runs = choose(args.bits, network, lambda: datamodule)
    refitted = _with_norms_to_fit(runs, network) if args.norm_batches else []
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    test = args.set == "test"
    if args.norm_batches or not test:
        datamodule.prepare_data()
        datamodule.setup("fit")
    else:
        datamodule.prepare_test_data()
    if test:
        datamodule.setup("test")
    if args.norm_batches:
        network.reestimate_norms(datamodule.train_dataloader(), refitted, args.norm_batches)
    loader = datamodule.test_dataloader() if test else validation_loader(network, datamodule)
    results = evaluate(network, progress(loader, "evaluating"), runs)
    title = f"{args.checkpoint}: {type(datamodule).__name__}, {args.set} set"
    print_table(results, title, datamodule.num_classes)
    if args.output:
        write_json(
            args.output / "results.json",
            finite(
                {
                    "checkpoint": str(args.checkpoint),
                    "set": args.set,
                    "images": loader.size,
                    "norm_batches": args.norm_batches,
                    "modes": results,
                }
            ),
        )
        plot_modes(args.output / "modes.png", {"": results}, args.checkpoint.parent.name)
    return 0


def _with_norms_to_fit(runs: Sequence[Chosen], network: QuantizableNetwork) -> list[Any]:
    """The quantized modes; ``ValueError`` if there are none, or an assignment file stands beside them."""
    quantized = [run for run in runs if run.bits != FLOAT]
    if any(run.network is not network for run in quantized):
        raise ValueError("--norm-batches is for modes; an assignment file says of its own norms")
    if not quantized:
        raise ValueError("--norm-batches fits the norms of quantized modes, and --bits names none")
    return [run.bits for run in quantized]


@torch.inference_mode()
def evaluate(
    network: QuantizableNetwork,
    loader: Iterable[tuple[Tensor, Tensor]],
    modes: Sequence[BitMode | Chosen],
) -> dict[str, dict[str, float]]:
    """Loss, top-1, top-5 and disagreement with the highest mode, as fractions, by mode name.

    Args:
        network: in evaluation mode.
        loader: yields (images ``[B, C, H, W]``, labels ``[B]``).
        modes: modes of the network, or what ``choose`` gave; the network's highest mode runs too, as the
            reference.
    """
    runs = [Chosen(m.name, network, m) if isinstance(m, BitMode) else m for m in modes]
    sums = {run.name: dict.fromkeys(METRICS, 0.0) for run in runs}
    count = 0
    for images, labels in loader:
        count += len(labels)
        with network.at_bits(network.modes[-1]):
            highest = network(images).float()
        reference = highest.argmax(1)
        for run in runs:
            z, into = highest, sums[run.name]
            if run.bits != network.modes[-1]:
                with run.network.at_bits(run.bits) as switched:
                    z = switched(images).float()
            for metric, values in image_metrics(z, labels, reference).items():
                into[metric] += values.sum(dtype=torch.float64).item()
    if count == 0:
        raise ValueError("the data has no images")
    return {name: {key: value / count for key, value in values.items()} for name, values in sums.items()}
