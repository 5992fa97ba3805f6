"""ONNX files compiled by the engines: each function gives back a callable from images to logits.

Of a network with several outputs the callable gives a list, in the order of the graph's outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quantizable.deploy.openvino_exact import codes_can_saturate, without_saturation
from quantizable.deploy.processor import exact_kernels, processor_name
from quantizable.deploy.requirements import openvino_core, require
from quantizable.storage.outputs import INPUT

log = logging.getLogger(__name__)
SATURATING = (
    "%s has no exact integer kernels: %d layers, whose integers could saturate there, run in float (%s); "
    "exact=False leaves them to the integer kernels, which is faster and wrong where they saturate"
)
Runner = Callable[[np.ndarray], Any]  # an array, or a list of arrays


def onnxruntime_options(threads: int | None = None, exact: bool = True) -> Any:
    """``SessionOptions`` for ONNX Runtime; see :func:`compile_onnxruntime`."""
    options = require("onnxruntime", "engine 'onnxruntime'").SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def compile_onnxruntime(
    model: bytes | Path, threads: int | None, shape: tuple[int, ...] | None, exact: bool = True
) -> Runner:
    """ONNX Runtime's CPU provider.

    Args:
        model: an ONNX file, or its bytes.
        threads: of one inference; None: as many as cores.
        shape: not needed, as ONNX Runtime serves any batch size equally well.
        exact: multiply the codes in float, which loses nothing. If False it fuses QLinearConv kernels,
            which round the bias to the accumulator's unit: codes move by a step, and a deep network
            amplifies that.
    """
    onnxruntime = require("onnxruntime", "engine 'onnxruntime'")
    options = onnxruntime_options(threads, exact)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: _one_or_all(session.run(None, {INPUT: images}))


def compile_openvino(
    model: bytes | Path,
    threads: int | None,
    shape: tuple[int, ...] | None,
    exact: bool = True,
    precision: str = "f32",
) -> Runner:
    """OpenVINO's CPU device.

    Where the processor's integer kernels saturate (see :mod:`quantizable.deploy.processor`), layers that can
    saturate by their own numbers are multiplied in float; one log line names them.

    Args:
        model: an ONNX or ``.xml`` file, or the bytes of an ONNX file.
        threads: of one inference; None: as many as cores.
        shape: fixed ``[N, C, H, W]``, which it runs faster than a free batch size.
        exact: False leaves all layers to the integer kernels, also where these saturate.
        precision: of what is not integer: ``"f32"``, or ``"bf16"`` at the cost of exactness.
    """
    core = openvino_core("engine 'openvino'")
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    network = core.read_model(model)
    if exact and not exact_kernels():
        if codes_can_saturate(network):
            options["LP_TRANSFORMS_MODE"] = "NO"
            log.info("%s has no exact integer kernels: all layers run in float", processor_name())
        elif layers := without_saturation(network):
            log.info(SATURATING, processor_name(), len(layers), ", ".join(layers))
    if shape is not None:
        network.reshape(list(shape))
    compiled = core.compile_model(network, "CPU", options)
    request = compiled.create_infer_request()

    def run(images: np.ndarray) -> Any:
        found = request.infer({0: images})
        return _one_or_all([np.array(found[port]) for port in range(len(compiled.outputs))])

    return run


def _one_or_all(arrays: list[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays
