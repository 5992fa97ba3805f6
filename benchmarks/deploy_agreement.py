"""Predictions and codes of exported modes against fake quantization, on the CIFAR-10 test set.

    python benchmarks/deploy_agreement.py CHECKPOINT --data FOLDER --bits 8,4,2 --output agreement.json
    python benchmarks/deploy_agreement.py CHECKPOINT --data FOLDER --without-vnni --output without_vnni.json

Counts the images on which an engine's prediction differs, and the codes that differ layer by layer. How often
fake quantization differs from the integer reference in float64 is the floor: values that nearly tie.

``--without-vnni`` holds OpenVINO to AVX2 kernels, which saturate, and tells the library so. ONNX
Runtime cannot be held; its exact path multiplies in float on every processor.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

if "--without-vnni" in sys.argv:  # read once, when OpenVINO is loaded
    os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "QUANTIZABLE_INTEGER_KERNELS": "saturating"}

import numpy as np
import torch
from torch import Tensor

import quantizable
from quantizable.deploy import Session, export_onnx, save_qz
from quantizable.deploy.divergence import engine_codes, fake_quant_codes, reference_codes, step_differences
from quantizable.deploy.processor import processor_name
from quantizable.deploy.reference import integer_network
from quantizable.network import QuantizableNetwork

ENGINES = (  # name, engine, exact, residual additions on 8-bit codes
    ("onnxruntime", "onnxruntime", True, False),
    ("onnxruntime, exact=False", "onnxruntime", False, False),
    ("openvino", "openvino", True, False),
    ("openvino, exact=False", "openvino", False, False),
    ("openvino, int8 residual", "openvino", True, True),
)
CALIBRATION_IMAGES = 512  # training images, for the grids of residual additions


def cifar10(folder: Path, part: str, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    """10 000 images of ``test_batch`` or ``data_batch_1``, normalized, ``[10000, 3, 32, 32]``; labels."""
    with (folder / "cifar-10-batches-py" / part).open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    pixels = torch.tensor(batch[b"data"]).reshape(-1, 3, 32, 32) / 255
    images = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return images, torch.tensor(batch[b"labels"])


@torch.inference_mode()
def fake_quant_logits(network: QuantizableNetwork, bits: str, images: Tensor) -> np.ndarray:
    with network.at_bits(bits):
        return torch.cat([network(part) for part in images.split(250)]).numpy()


@torch.inference_mode()
def reference_logits(network: QuantizableNetwork, bits: str, images: Tensor) -> np.ndarray:
    reference = integer_network(network, bits, images[:1])
    return torch.cat([reference(part.double()) for part in images.split(250)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--bits", default="8,4,2")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument(
        "--code-images", type=int, default=100, help="images whose codes are compared; 0: none"
    )
    parser.add_argument("--engines", default=";".join(e[0] for e in ENGINES), help="separated by semicolons")
    parser.add_argument("--without-vnni", action="store_true", help="run OpenVINO's saturating kernels (x86)")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    kernels = "AVX2 (ONEDNN_MAX_CPU_ISA)" if args.without_vnni else "the processor's own"
    about = {"processor": processor_name(), "kernels": kernels}
    network = quantizable.load(args.checkpoint).float().eval()
    normalization = network.info["mean"], network.info["std"]
    images, labels = cifar10(args.data, "test_batch", *normalization)
    calibration = cifar10(args.data, "data_batch_1", *normalization)[0][:CALIBRATION_IMAGES]
    images, labels = images[: args.images], labels[: args.images].numpy()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_qz(network, Path(folder) / "model.qz")
        for bits in args.bits.split(","):
            expected = fake_quant_logits(network, bits, images)
            accuracy = 100 * float((expected.argmax(1) == labels).mean())
            print(f"\nmode {bits}: fake quant {accuracy:.2f} %")
            if args.code_images:
                again = reference_logits(network, bits, images)
                floor = int((again.argmax(1) != expected.argmax(1)).sum())
                print(f"  integer reference in float64: {floor} of {len(images)} differ", flush=True)
                results.append({"bits": bits, "engine": "integer reference", "disagreements": floor})
                codes = fake_quant_codes(network, bits, images[: args.code_images])
            for name, engine, exact, residual in ENGINES:
                if name not in args.engines.split(";"):
                    continue
                path = Path(folder) / "model.qz"
                if residual:
                    path = Path(folder) / f"{bits}.onnx"
                    export_onnx(network, path, bits, residual_images=calibration)
                got = Session(path, engine, bits, batch=250, exact=exact)(images)
                differs = np.flatnonzero(got.argmax(1) != expected.argmax(1))
                row = {
                    "bits": bits, "engine": name, "fake_quant_top1": accuracy,
                    "top1": 100 * float((got.argmax(1) == labels).mean()), "images": len(images),
                    "disagreements": len(differs), "margins_of_those": margins(expected[differs]),
                }  # fmt: skip
                results.append(row)
                print(f"  {name:24} {row['top1']:.2f} %, {len(differs)} of {len(images)} differ", flush=True)
                if args.code_images:
                    options = {"residual_images": calibration} if residual else {}
                    theirs = engine_codes(network, bits, images[: args.code_images], engine, exact, **options)
                    row |= compared(codes, theirs)
                if args.output:  # after every row: a long run that is cut off leaves what it has
                    args.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")
            for fixed_point in (False, True) if args.code_images else ():
                theirs = reference_codes(network, bits, images[: args.code_images], fixed_point, codes)
                name = "reference, fixed point" if fixed_point else "reference"
                print(f"  {name}:")
                results.append({"bits": bits, "engine": name} | compared(codes, theirs))
    if args.output:
        args.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


def compared(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, Any]:
    """How far the codes of two runs are apart, over all layers and by layer."""
    steps = step_differences(ours, theirs)
    mean, largest = float(np.mean([s.differing for s in steps])), max(s.largest for s in steps)
    print(f"    codes: {100 * mean:.4f} % differ, by {largest} at most", flush=True)
    return {"codes_that_differ": mean, "largest_step": largest, "layers": [vars(s) for s in steps]}


def margins(logits: np.ndarray) -> list[float]:
    """Distance between the two largest logits of each row: how close a prediction was."""
    if not len(logits):
        return []
    ordered = np.sort(logits, axis=1)
    return [round(float(m), 4) for m in ordered[:, -1] - ordered[:, -2]]


if __name__ == "__main__":
    main()
