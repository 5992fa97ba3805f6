"""ONNX files compiled by the engines: each function gives back a callable from images to logits.

Of a network with several inputs the callable takes arrays by name; of one with several outputs it gives a
list, in the order of the graph's outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quantizable.deploy.four_bit import for_onnxruntime
from quantizable.deploy.openvino_additions import with_fused_additions
from quantizable.deploy.openvino_exact import codes_can_saturate, without_saturation
from quantizable.deploy.openvino_pooling import with_even_windows, with_pooled_codes
from quantizable.deploy.openvino_reductions import with_kept_axes
from quantizable.deploy.processor import exact_kernels, processor_name
from quantizable.deploy.requirements import openvino_core, require
from quantizable.storage.outputs import INPUT
from quantizable.storage.signature import Arrays

log = logging.getLogger(__name__)
FASTER = "exact=False leaves them to the integer kernels, which is faster and wrong where they saturate"
SATURATING = (
    "integer kernels taken as saturating on %s: %d layers, whose products could leave int16, "
    f"run in float (%s); {FASTER}"
)
ALL_IN_FLOAT = (
    "integer kernels taken as saturating on %s: all layers run in float, "
    f"as products of attention could leave int16; {FASTER}"
)
# else OpenVINO rounds the float input of a linear layer with integer weights to 8 bits, batch by batch
AS_WRITTEN: dict[str, Any] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
Runner = Callable[[Arrays], Any]  # gives an array, or a list of arrays
Shape = tuple[int, ...] | dict[str, tuple[int, ...]]  # of a batch, by name where inputs have names


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
    model: bytes | Path, threads: int | None, shape: Shape | None, exact: bool = True
) -> Runner:
    """ONNX Runtime's CPU provider; weights stored as INT4 go to its 4-bit kernel, where it has one.

    Args:
        model: an ONNX file, or its bytes.
        threads: of one inference; None: as many as cores.
        shape: not needed, as ONNX Runtime serves any batch size equally well.
        exact: multiply the codes in float, which loses nothing. If False it fuses QLinearConv kernels,
            which round the bias to the accumulator's unit: codes move by a step, and a deep network
            amplifies that. Without VNNI these kernels saturate, too.
    """
    onnxruntime = require("onnxruntime", "engine 'onnxruntime'")
    options = onnxruntime_options(threads, exact)
    session = onnxruntime.InferenceSession(
        for_onnxruntime(model), options, providers=["CPUExecutionProvider"]
    )
    used = {given.name for given in session.get_inputs()}

    def run(given: Arrays) -> Any:
        arrays = {INPUT: given} if isinstance(given, np.ndarray) else given
        return _one_or_all(session.run(None, {name: arrays[name] for name in used}))

    return run


def compile_openvino(
    model: bytes | Path,
    threads: int | None,
    shape: Shape | None,
    exact: bool = True,
    precision: str = "f32",
    integers: bool = True,
) -> Runner:
    """OpenVINO's CPU device.

    Args:
        model: an ONNX or ``.xml`` file, or the bytes of an ONNX file.
        threads: of one inference; None: as many as cores.
        shape: fixed ``[N, C, H, W]``, or the shapes of inputs by name; it runs these faster than a free batch
            size.
        exact: as of :func:`openvino_graph`.
        precision: of what is not integer: ``"f32"``, or ``"bf16"`` at the cost of exactness.
        integers: False keeps OpenVINO's low-precision passes off: codes are multiplied in float.
    """
    network, options = openvino_graph(model, exact, integers)
    options |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if not integers:
        options["LP_TRANSFORMS_MODE"] = "NO"
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    used = {port.get_any_name() for port in network.inputs}
    if shape is not None:
        network.reshape({n: list(shape[n]) for n in used} if isinstance(shape, dict) else list(shape))
    compiled = openvino_core("engine 'openvino'").compile_model(network, "CPU", options)
    request = compiled.create_infer_request()

    def run(given: Arrays) -> Any:
        arrays = {0: given} if isinstance(given, np.ndarray) else {name: given[name] for name in used}
        found = request.infer(arrays)
        return _one_or_all([np.array(found[port]) for port in range(len(compiled.outputs))])

    return run


def openvino_graph(
    model: bytes | Path, exact: bool = True, integers: bool = True
) -> tuple[Any, dict[str, Any]]:
    """An ``openvino.Model`` and the compile options that keep its integers right on this processor.

    Where the processor's integer kernels saturate (see :mod:`quantizable.deploy.processor`), layers that can
    saturate by their own numbers are multiplied in float; one log line names them.

    Args:
        model: an ONNX or ``.xml`` file, or the bytes of an ONNX file.
        exact: False leaves all layers to the integer kernels, also where these saturate.
        integers: False where codes are multiplied in float.
    """
    network = openvino_core("engine 'openvino'").read_model(model)
    without_loss = exact_kernels()  # refuses a wrong word of the environment, whatever is asked for
    with_kept_axes(network)
    if not exact or without_loss:
        if integers:
            _fused(network)
        return network, dict(AS_WRITTEN) if exact else {}
    if codes_can_saturate(network):  # codes times codes, which have no constant to put in float
        without_saturation(network, all_layers=True)
        log.info(ALL_IN_FLOAT, processor_name())
        return network, AS_WRITTEN | {"LP_TRANSFORMS_MODE": "NO"}
    if layers := without_saturation(network):
        log.info(SATURATING, processor_name(), len(layers), ", ".join(layers))
    if integers:
        _fused(network)
    return network, dict(AS_WRITTEN)


def _fused(network: Any) -> None:
    """Let OpenVINO fuse more into integer convolutions, in place; what is computed stays the same."""
    with_fused_additions(network)
    with_pooled_codes(network)
    with_even_windows(network)


def _one_or_all(arrays: list[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays
