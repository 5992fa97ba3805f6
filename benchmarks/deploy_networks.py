"""Predictions of exported networks with random weights against fake quantization, 64 images each.

    python benchmarks/deploy_networks.py --output networks.json
    python benchmarks/deploy_networks.py --without-vnni --output networks_without_vnni.json

``--without-vnni`` as in ``deploy_agreement.py``. Weights are random and calibrated on the images, which are
smooth noise; a prediction is the largest of ten logits. ``--norms`` re-estimates the norms on the images,
too: predictions then spread over more classes, and a network of many layers amplifies each code that rounding
moves. ``noise`` counts the predictions that rounding alone changes in fake quantization: noise of 4e-6 on
what each quantizer reads, as golden samples are made with. No engine can be expected to be below it.
``torch, channels last`` is fake quantization itself in the other memory layout, which sums in another order.
``off %`` is the mean difference of the logits in percent of their mean size.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from functools import partial
from pathlib import Path

if "--without-vnni" in sys.argv:  # read once, when OpenVINO is loaded
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "QUANTIZABLE_INTEGER_KERNELS": "saturating"}

import numpy as np
import timm
import torch
from torch import Tensor

import quantizable
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import onnx_model
from quantizable.deploy.processor import processor_name
from quantizable.storage.rounding_noise import rounding_noise

NETWORKS = "mobilenetv2_050,resnet26,vgg13_bn,efficientnet_lite0,convnext_atto"
RUNS = (  # name, engine, exact
    ("onnxruntime", compile_onnxruntime, True),
    ("openvino", compile_openvino, True),
    ("openvino, exact=False", compile_openvino, False),
    ("openvino, no integer passes", partial(compile_openvino, integers=False), True),
)


def smooth_noise(count: int, size: int) -> Tensor:
    """Images with coarse and fine noise, so that their logits differ, ``[count, 3, size, size]``."""
    coarse = torch.randn(count, 3, 4, 4)
    return (
        torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
        + torch.randn(count, 3, size, size) / 4
    )


def off(got: np.ndarray, expected: np.ndarray) -> float | None:
    """Mean difference of the logits in percent of their mean size; shows what a prediction can hide."""
    size = float(np.abs(expected).mean())
    return round(100 * float(np.abs(got - expected).mean()) / size, 4) if size else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--bits", default="8,4,2")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=96, help="pixels (default: 96)")
    parser.add_argument("--norms", action="store_true", help="re-estimate the norms of each mode")
    parser.add_argument(
        "--fixed-batch", action="store_true", help="compile for the batch; default: a free one"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-vnni", action="store_true", help="run OpenVINO's saturating kernels (x86)")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kernels = "AVX2 (ONEDNN_MAX_CPU_ISA)" if args.without_vnni else "the processor's own"
    about = {"processor": processor_name(), "kernels": kernels, "size": args.size, "norms": args.norms}
    results = []
    for name in args.networks.split(","):
        torch.manual_seed(0)
        bits = [int(word) for word in args.bits.split(",")]
        network = quantizable.quantize(timm.create_model(name, num_classes=10), bits).eval()
        images = smooth_noise(args.images, args.size)
        shape = tuple(images.shape) if args.fixed_batch else None
        network.calibrate([images])
        if args.norms:
            network.reestimate_norms([images], batches=1)
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        for mode in bits:
            with network.at_bits(mode), torch.inference_mode():
                expected = network(images).numpy()
                with rounding_noise(network.model):
                    noisy = network(images).numpy()
            with other.at_bits(mode), torch.inference_mode():
                again = other(images.contiguous(memory_format=torch.channels_last)).numpy()
            model = onnx_model(network, mode, input_size=(3, args.size, args.size)).SerializeToString()
            row = {"network": name, "bits": mode, "images": len(images),
                   "classes": len(np.unique(expected.argmax(1))),
                   "noise": int((noisy.argmax(1) != expected.argmax(1)).sum()),
                   "noise, off %": off(noisy, expected),
                   "torch, channels last": int((again.argmax(1) != expected.argmax(1)).sum()),
                   "torch, channels last, off %": off(again, expected)}  # fmt: skip
            for engine, compiled, exact in RUNS:
                got = compiled(model, args.threads, shape, exact)(images.numpy())
                row[engine] = int((got.argmax(1) != expected.argmax(1)).sum())
                row[f"{engine}, off %"] = off(got, expected)
            print(row, flush=True)
            results.append(row)
            if args.output:  # after every row: a long run that is cut off leaves what it has
                args.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
