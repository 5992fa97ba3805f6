"""One ONNX file whose input ``bits`` chooses the mode: does an engine keep its integer kernels inside?

    python benchmarks/multi_mode_onnx.py --output multi_mode.json

Every mode's graph becomes a branch of ``If`` nodes. Prints its size and its latency beside files of one mode.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper

import quantizable
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import onnx_model
from quantizable.deploy.integer_nodes import OPSET
from quantizable.deploy.requirements import openvino_core
from quantizable.measure.latency import interleaved
from quantizable.storage.outputs import INPUT, OUTPUT


def branch(model: ModelProto, bits: int) -> GraphProto:
    """A mode's graph as the branch of an ``If``: its names get a prefix, the image comes from outside."""
    graph = GraphProto()
    graph.CopyFrom(model.graph)

    def renamed(name: str) -> str:
        return name if name in ("", INPUT) else f"mode{bits}/{name}"

    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for value in graph.output:
        value.name = renamed(value.name)
    del graph.input[:], graph.value_info[:]
    graph.name = f"mode{bits}"
    return graph


def multi_mode(models: dict[int, ModelProto]) -> ModelProto:
    """One model with inputs ``image`` and ``bits`` (int64 scalar); an unknown value takes the last mode."""
    first = next(iter(models.values()))
    *others, last = models
    bits = helper.make_tensor_value_info("bits", TensorProto.INT64, [])
    chosen = branch(models[last], last)
    nodes: list[Any] = []
    for mode in reversed(others):
        constant = helper.make_node(
            "Constant", [], [f"is/{mode}"], value=helper.make_tensor("", TensorProto.INT64, [], [mode])
        )
        equal = helper.make_node("Equal", ["bits", f"is/{mode}"], [f"chosen/{mode}"])
        out = OUTPUT if mode == others[0] else f"logits/{mode}"
        outer = helper.make_node(
            "If", [f"chosen/{mode}"], [out], then_branch=branch(models[mode], mode), else_branch=chosen
        )
        nodes = [constant, equal, outer]
        value = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
        chosen = helper.make_graph(nodes, f"choice{mode}", [], [value])
    inputs, outputs = [*first.graph.input, bits], list(first.graph.output)
    graph = helper.make_graph(nodes, "modes", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--bits", default="8,4,2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.manual_seed(0)
    modes = [int(b) for b in args.bits.split(",")]
    network = quantizable.quantize(timm.create_model(args.network), modes).eval()
    images = torch.randn(1, 3, args.size, args.size)
    network.calibrate([images])
    models = {mode: onnx_model(network, mode, input_size=tuple(images.shape[1:])) for mode in modes}
    whole = multi_mode(models).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(whole, options)
    core = openvino_core("this benchmark")
    graph = core.read_model(whole)
    graph.reshape({INPUT: list(images.shape)})
    settings = {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(graph, "CPU", settings)
    array, runs = images.numpy(), {}
    for mode, model in models.items():
        given, single = {INPUT: array, "bits": np.array(mode)}, model.SerializeToString()
        runs[f"onnxruntime {mode}, one mode"] = partial(
            compile_onnxruntime(single, args.threads, None), array
        )
        runs[f"onnxruntime {mode}, all modes"] = partial(session.run, None, given)
        runs[f"openvino {mode}, one mode"] = partial(
            compile_openvino(single, args.threads, array.shape), array
        )
        runs[f"openvino {mode}, all modes"] = partial(compiled, given)
        alone = runs[f"onnxruntime {mode}, one mode"]()
        print(f"mode {mode}: logits differ by {np.abs(session.run(None, given)[0] - alone).max():.2g}")
    medians = interleaved(runs, args.repeats)
    sizes = {"all modes": len(whole)} | {
        str(m): len(model.SerializeToString()) for m, model in models.items()
    }
    print("bytes:", sizes)
    for run, ms in medians.items():
        print(f"{run:30} {ms:8.1f} ms")
    if args.output:
        found = {"network": args.network, "bytes": sizes, "ms": medians}
        args.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
