"""Latency of the exported modes beside float and the engines' own int8, all taking turns in one run.

    python benchmarks/inference.py --output inference.json
    python benchmarks/inference.py --without-vnni --output inference_without_vnni.json

``--without-vnni`` holds OpenVINO to AVX2, whose integer kernels saturate. Rows "safe" are the path that is
exact there: layers that can saturate run in float. They stand beside the native ones on every processor.
"int8 residual" puts additions on integer grids at export, "residual=8" has them in training.

OpenVINO's own quantization needs nncf beside the deploy extra; without it that row is left out. Networks have
random weights, which does not change the time. Prints, per network and batch size, the median milliseconds of
a batch and how many times faster than torch fp32 that is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if "--without-vnni" in sys.argv:  # read once, when OpenVINO is loaded
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"

import numpy as np
import onnxruntime
import openvino
import timm
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import quantizable
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import onnx_model
from quantizable.deploy.processor import VARIABLE
from quantizable.deploy.requirements import openvino_core
from quantizable.measure.latency import interleaved

Run = Callable[[], object]


class Calibration(CalibrationDataReader):
    """The batches that ONNX Runtime's own quantization looks at."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def runs(name: str, batch: int, size: int, bits: list[int], threads: int, folder: Path) -> dict[str, Run]:
    """Everything to time for one network and batch size."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size)
    array = images.numpy()
    model = timm.create_model(name)
    network = quantizable.quantize(model, [*bits, 32]).eval()
    network.calibrate([images[:4]], batches=1)
    on_grids = quantizable.quantize(model, [*bits, 32], residual=8).eval()
    on_grids.calibrate([images[:4]], batches=1)
    models = {
        mode: onnx_model(network, mode, input_size=(3, size, size)).SerializeToString()
        for mode in [*bits, 32]
    }
    shape = tuple(array.shape)
    found: dict[str, Run] = {}
    plain = network.to_float().eval()

    def in_torch(dtype: torch.dtype) -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            plain(images)

    found["torch fp32"] = partial(in_torch, torch.float32)
    if has_bf16():
        found["torch bf16"] = partial(in_torch, torch.bfloat16)
    found["onnxruntime fp32"] = partial(compile_onnxruntime(models[32], threads, shape), array)
    found["onnxruntime own int8"] = partial(
        compile_onnxruntime(onnxruntime_int8(models[32], array, folder), threads, shape), array
    )
    found["openvino fp32"] = partial(compile_openvino(models[32], threads, shape), array)
    if has_bf16():
        found["openvino bf16"] = partial(
            compile_openvino(models[32], threads, shape, precision="bf16"), array
        )
    if importlib.util.find_spec("nncf"):
        found["openvino own int8"] = openvino_int8(models[32], array, threads)
    for mode in bits:
        for name, exact in (("onnxruntime exact", True), ("onnxruntime", False)):
            run = compile_onnxruntime(models[mode], threads, shape, exact=exact)
            found[f"{name} ours {mode}"] = partial(run, array)
        for name, kernels in (("openvino", "exact"), ("openvino safe", "saturating")):
            os.environ[VARIABLE] = kernels
            found[f"{name} ours {mode}"] = partial(compile_openvino(models[mode], threads, shape), array)
        os.environ.pop(VARIABLE)
        residual = onnx_model(network, mode, input_size=(3, size, size), residual_images=images)
        run = compile_openvino(residual.SerializeToString(), threads, shape)
        found[f"openvino ours {mode}, int8 residual"] = partial(run, array)
        trained = onnx_model(on_grids, mode, input_size=(3, size, size)).SerializeToString()
        found[f"openvino ours {mode}, residual=8"] = partial(compile_openvino(trained, threads, shape), array)
    return found


def has_bf16() -> bool:
    """Whether this processor has bf16 units, and may use them: held to AVX2, torch emulates them."""
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        return False
    capabilities = openvino_core("this benchmark").get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def onnxruntime_int8(model: bytes, array: np.ndarray, folder: Path) -> bytes:
    """ONNX Runtime's static quantization of the float network."""
    (folder / "float.onnx").write_bytes(model)
    quantize_static(
        str(folder / "float.onnx"), str(folder / "int8.onnx"), Calibration([array]),
        quant_format=QuantFormat.QDQ, per_channel=True,
    )  # fmt: skip
    return (folder / "int8.onnx").read_bytes()


def openvino_int8(model: bytes, array: np.ndarray, threads: int) -> Run:
    """NNCF's post-training quantization of the float network."""
    import nncf

    core = openvino_core("this benchmark")
    graph = core.read_model(model)
    graph.reshape(list(array.shape))
    graph = nncf.quantize(graph, nncf.Dataset([array]), subset_size=1)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    return lambda: request.infer({0: array})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet18,resnet50,mobilenetv2_100")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--bits", default="8,4,2")
    parser.add_argument("--size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--without-vnni", action="store_true", help="hold OpenVINO to AVX2")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    about = {
        "processor": processor(),
        "without_vnni": args.without_vnni,
        "threads": args.threads,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__,
    }
    results: list[dict[str, Any]] = []
    for name in args.networks.split(","):
        for batch in map(int, args.batches.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                bits = [int(b) for b in args.bits.split(",")]
                timed = runs(name, batch, args.size, bits, args.threads, Path(folder))
                medians = interleaved(timed, args.repeats)
            print(f"\n{name}, batch {batch}, {args.size} px: ms, times faster than torch fp32")
            for run, ms in medians.items():
                print(f"  {run:30} {ms:9.1f} {medians['torch fp32'] / ms:7.2f}", flush=True)
            results.append({"network": name, "batch": batch, "size": args.size, "ms": medians})
            if args.output:  # after every row: a long run that is cut off leaves what it has
                args.output.write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


def processor() -> str:
    """Name of the processor and which of the integer instruction sets it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), ""
    )
    return f"{name} ({', '.join(f for f in ('avx2', 'avx512_vnni', 'avx_vnni', 'amx_int8') if f in text)})"


if __name__ == "__main__":
    main()
