"""Where an engine and the fake-quant network part: the integer codes of every layer's input, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizable.deploy.engines import onnxruntime_options, openvino_graph
from quantizable.deploy.export import onnx_model
from quantizable.deploy.integer_nodes import node_layer
from quantizable.deploy.lowering import lower
from quantizable.deploy.reference import Codes, integer_network
from quantizable.deploy.requirements import openvino_core, require
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.nn.watching import watching
from quantizable.storage.outputs import INPUT


@dataclass(frozen=True)
class StepDifference:
    """How far the codes of one layer's input are apart.

    Attributes:
        layer: its name; where it is used more than once, ``name#2`` and so on from the second use on.
        differing: share of the codes that differ, 0 to 1.
        largest: largest difference, in steps.
    """

    layer: str
    differing: float
    largest: int


def step_differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> list[StepDifference]:
    """Layer by layer, for the layers that both hold."""
    found = []
    for layer in ours:
        if layer in theirs:
            apart = np.abs(ours[layer].astype(np.int64) - theirs[layer].astype(np.int64))
            found.append(StepDifference(layer, float((apart > 0).mean()), int(apart.max())))
    return found


def next_use(layer: str, found: Mapping[str, Any]) -> str:
    """Key of the next use of a layer: its name, then ``name#2``, ``name#3``, ..."""
    key, number = layer, 1
    while key in found:
        number += 1
        key = f"{layer}#{number}"
    return key


@torch.no_grad()
def fake_quant_codes(network: QuantizableNetwork, bits: Assignment, images: Tensor) -> dict[str, np.ndarray]:
    """The codes (int32) that each layer's input has in the fake-quant network, by layer name (and use)."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, quantizer: Any, inputs: tuple[Tensor, ...]) -> None:
        if quantizer.active is not None:
            found[next_use(name, found)] = quantizer.codes(inputs[0]).numpy()

    inputs = {n: m.input_quantizer for n, m in network.layers().items() if isinstance(m, QuantLayer)}
    with watching(inputs, note, before=True), network.at_bits(bits):
        network.eval()(images)
    return found


@torch.no_grad()
def reference_codes(
    network: QuantizableNetwork,
    bits: Assignment,
    images: Tensor,
    fixed_point: bool = False,
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The same codes in the integer reference.

    Args:
        fixed_point: as of ``integer_network``.
        given: codes that each layer goes on with instead of those found, so that a difference in one layer
            is not carried into the next.
    """
    model = integer_network(network, bits, images[:1], fixed_point)
    found: dict[str, np.ndarray] = {}

    def note(name: str, codes: Codes, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        key = next_use(name, found)
        found[key] = (output + codes.grid.zero_point).to(torch.int32).numpy()
        if given is None:
            return output
        return torch.from_numpy(given[key]).double() - codes.grid.zero_point

    inputs = {
        name.removesuffix(".input_quantizer"): m for name, m in model.named_modules() if isinstance(m, Codes)
    }
    with watching(inputs, note):
        model(images.double())
    return found


def engine_codes(
    network: QuantizableNetwork,
    bits: Assignment,
    images: Tensor,
    engine: str = "onnxruntime",
    exact: bool = True,
    **options: Any,
) -> dict[str, np.ndarray]:
    """The same codes as an engine computes them, read from the exported graph (extra outputs).

    Args:
        engine: ``"onnxruntime"`` or ``"openvino"``.
        exact: as of ``compile_onnxruntime`` and ``openvino_graph``.
        options: of ``onnx_model``, such as ``residual_images``.
    """
    onnx = require("onnx", "reading an engine's codes")
    size: Any = tuple(images.shape[1:])
    model = onnx_model(network, bits, input_size=size, **options)
    outputs: dict[str, str] = {}
    owners: dict[str, str] = {}
    uses: dict[str, str] = {}  # by value
    for node in model.graph.node:
        layer = node_layer(node)
        if layer and node.op_type == "QuantizeLinear":
            use = uses[node.output[0]] = next_use(layer, outputs)
            outputs[use], owners[use] = node.output[0], layer
        elif layer and node.op_type == "Clip":  # behind its QuantizeLinear
            outputs[uses[node.input[0]]] = node.output[0]
    for value in outputs.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.UINT8, None))
    arrays = _run_all(model.SerializeToString(), images.numpy(), engine, exact)
    offsets = {name: node.offset for name, node in lower(network, bits, images[:1]).inputs.items()}
    return {use: arrays[value].astype(np.int32) - offsets[owners[use]] for use, value in outputs.items()}


def _run_all(model: bytes, images: np.ndarray, engine: str, exact: bool) -> dict[str, np.ndarray]:
    """Every output of a graph by name."""
    if engine == "onnxruntime":
        runtime = require("onnxruntime", "engine 'onnxruntime'")
        session = runtime.InferenceSession(model, onnxruntime_options(exact=exact))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {INPUT: images}), strict=True))
    network, options = openvino_graph(model, exact)
    options["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = openvino_core("engine 'openvino'").compile_model(network, "CPU", options)
    results = compiled(images)
    return {next(iter(port.get_names())): results[port] for port in compiled.outputs if port.get_names()}
