"""Seconds and peak memory of what stands before training and before inference, beside the bare of each.

    python benchmarks/preparation.py
    python benchmarks/preparation.py --networks resnet50 --steps quantize calibrate

quantize   ``timm.create_model`` and ``quantize`` in four modes, beside ``create_model`` alone
calibrate  eight batches of four images, beside as many forward passes of the float network
export     one mode of 8 bits as ONNX with golden samples, beside ``torch.onnx.export`` of the float network
session    start of ``Session`` on that file and one inference, beside the engine's own on the same bytes

Each side runs in a process of its own. The peak is counted from before the network is built.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from steps import command_line, memory_mib, positive, save, table
from torch import Tensor

import quantizable
from quantizable.deploy import Session
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import export_onnx
from quantizable.network import QuantizableNetwork

MODES = [2, 4, 8, 32]
BATCHES = 8
STEPS = ("quantize", "calibrate", "export", "session onnxruntime", "session openvino")
Work = Callable[[], object]


def images(name: str) -> Tensor:
    """Four images of the network's size."""
    return torch.randn(
        4, *timm.get_pretrained_cfg(name).input_size, generator=torch.Generator().manual_seed(0)
    )


def calibrated(name: str) -> QuantizableNetwork:
    """The network, ready to be exported."""
    network = quantizable.quantize(timm.create_model(name), MODES).eval()
    network.calibrate([images(name)], batches=1)
    return network


def prepared(step: str, ours: bool, name: str, folder: Path) -> Work:
    """What is measured of a step, after what it needs was built."""
    if step == "quantize":
        build = timm.create_model
        return (lambda: quantizable.quantize(build(name), MODES)) if ours else (lambda: build(name))
    given = images(name)
    if step == "calibrate":
        if ours:
            network = quantizable.quantize(timm.create_model(name), MODES).eval()
            return lambda: network.calibrate([given] * BATCHES, batches=BATCHES)
        model = timm.create_model(name).eval()
        return torch.inference_mode()(lambda: [model(given) for _ in range(BATCHES)])
    if step == "export":
        if ours:
            network = calibrated(name)
            return lambda: export_onnx(network, folder / "ours.onnx", 8)
        model = timm.create_model(name).eval()
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        return lambda: torch.onnx.export(
            model, (given,), folder / "bare.onnx", dynamo=True, verbose=False, dynamic_shapes=shapes
        )
    engine = step.split()[1]
    file, array = folder / "ours.onnx", given[:1].numpy()
    if ours:
        return lambda: Session(file, engine=engine, threads=torch.get_num_threads(), batch=1)(array)
    start = {"onnxruntime": compile_onnxruntime, "openvino": compile_openvino}[engine]
    content = file.read_bytes()
    return lambda: start(content, torch.get_num_threads(), tuple(array.shape))(array)


def measured(step: str, ours: bool, name: str, folder: Path, threads: int) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and peak memory in MiB, of a step in this process."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    before = memory_mib("VmRSS")
    work = prepared(step, ours, name, folder)
    with contextlib.suppress(OSError):  # Linux: from here on
        Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - wall, time.process_time() - cpu, memory_mib("VmHWM") - before


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "vit_base_patch16_224"])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--out", default="preparation", help="name of the JSON file in benchmarks/results")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            if any(step.startswith("session") for step in args.steps) and "export" not in args.steps:
                export_onnx(calibrated(name), Path(folder) / "ours.onnx", 8)
            for step in args.steps:
                found = []
                for ours in (True, False):
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                        job = pool.submit(measured, step, ours, name, Path(folder), args.threads)
                        found.append(job.result())
                (wall, cpu, peak), (bare_wall, bare_cpu, bare_peak) = found
                rows.append(
                    {
                        "network": name,
                        "step": step,
                        "processor, s": cpu,
                        "bare processor, s": bare_cpu,
                        "ratio of processor time": cpu / bare_cpu,
                        "ratio by the clock": wall / bare_wall,
                        "peak, MiB": round(peak),
                        "bare peak, MiB": round(bare_peak),
                        "ratio of peaks": peak / bare_peak,
                    }
                )
                save(args.out, "cpu", rows)
                print(table(rows[-1:]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
