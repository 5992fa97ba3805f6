"""Linear layers with weights of 4 bits on the engines: latency and file size beside 8 bits.

    python benchmarks/four_bit.py
    python benchmarks/four_bit.py --networks vit_small_patch16_224 --threads 2 --out four_bit_small

Rows: float; weights of 8 and of 4 bits with float activations; weights and activations of 8 bits. "4-bit
kernel" is ONNX Runtime's MatMulNBits and what OpenVINO does with compressed weights; "unpacked" is ONNX
Runtime without it. "Input rounded" lets the engine round the input of each layer to 8 bits, batch by batch,
which is not what was trained. Networks have random weights, which changes no time. All rows take turns in
one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from steps import command_line, positive, save, table

import quantizable
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino, onnxruntime_options
from quantizable.deploy.export import onnx_model
from quantizable.deploy.four_bit import IN_INT8, with_four_bit_products
from quantizable.deploy.requirements import openvino_core

MODES = ["w4a32", "w8a32", "8", "32"]
Run = Callable[[], np.ndarray]


def runs(models: dict[str, bytes], images: np.ndarray, threads: int) -> dict[tuple[str, str], Run]:
    """Everything to time, by engine and what it runs."""
    shape = tuple(images.shape)
    found: dict[tuple[str, str], Callable[[Any], Any]] = {}
    for mode, name in (("32", "float"), ("w8a32", "w8a32"), ("w4a32", "w4a32, 4-bit kernel"), ("8", "w8a8")):
        # what a user gets by `exact`, and for w8a8 the integer kernels
        found["onnxruntime", name] = compile_onnxruntime(models[mode], threads, shape, exact=mode != "8")
        found["openvino", name] = compile_openvino(models[mode], threads, shape)
    options = onnxruntime_options(threads)
    unpacked = onnxruntime.InferenceSession(models["w4a32"], options, providers=["CPUExecutionProvider"])
    found["onnxruntime", "w4a32, unpacked"] = lambda given: unpacked.run(None, {"image": given})[0]
    rounded = onnx.load_from_string(models["w4a32"])
    with_four_bit_products(rounded, IN_INT8)
    session = onnxruntime.InferenceSession(
        rounded.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found["onnxruntime", "w4a32, input rounded"] = lambda given: session.run(None, {"image": given})[0]
    core = openvino_core("this benchmark")
    graph = core.read_model(models["w4a32"])
    graph.reshape(list(shape))
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(graph, "CPU", hints).create_infer_request()
    found["openvino", "w4a32, input rounded"] = lambda given: request.infer({0: given})[0]
    return {key: (lambda run=run: np.array(run(images))) for key, run in found.items()}  # type: ignore[misc]


def measure(name: str, batch: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.02)  # timm leaves some at zero
    network = quantizable.quantize(model, MODES).eval()
    size = tuple(timm.get_pretrained_cfg(name).input_size)
    images = torch.randn(batch, *size)
    network.calibrate([images], batches=1)
    models = {
        mode: onnx_model(
            network, mode, weight_storage="int4" if mode == "w4a32" else "int8"
        ).SerializeToString()
        for mode in MODES
    }
    with torch.inference_mode():
        answers = {mode: network_output(network, mode, images) for mode in MODES}
    sides = runs(models, images.numpy(), threads)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(repeats + 1):
        for side, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[side].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows = []
    for (engine, what), run in sorted(sides.items()):
        mode = {"float": "32", "w8a8": "8"}.get(what, what.split(",")[0])
        wall, cpu = (statistics.median(t[i] for t in times[engine, what][1:]) * 1e3 for i in (0, 1))
        expected = answers[mode]
        rows.append(
            {
                "network": name,
                "batch": batch,
                "engine": engine,
                "mode": what,
                "ms": wall,
                "processor time, ms": cpu,
                "file, MiB": len(models[mode]) / 2**20,
                "off, % of the logits' range": 100 * float(np.abs(run() - expected).max() / np.ptp(expected)),
            }
        )
    return rows


def network_output(network: Any, mode: str, images: torch.Tensor) -> np.ndarray:
    """Logits of fake quantization."""
    with network.at_bits(mode):
        return network(images).numpy()


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="+", default=["vit_tiny_patch16_224", "mixer_s32_224"])
    parser.add_argument("--batches", nargs="+", type=positive, default=[1])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=positive, default=20)
    parser.add_argument("--out", default="four_bit", help="name of the JSON file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for name in args.networks:
        for batch in args.batches:
            rows += measure(name, batch, args.threads, args.repeats)
            save(args.out, "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
