"""Graph files of any maker on the engine that reads them, as the engine runs them by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizable.deploy import Session
from quantizable.deploy.export import METADATA
from quantizable.deploy.requirements import openvino_core, require
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import BYTES_KEY


@dataclass(frozen=True)
class Runner:
    """A file that is ready to run.

    Attributes:
        run: from images ``[B, C, H, W]`` to outputs ``[B, K]``.
        batch: images in one call, of a graph that takes no other number.
        normalization: mean and std, where the file says them.
    """

    run: Callable[[Tensor], Any]
    batch: int | None = None
    normalization: tuple[Sequence[float], Sequence[float]] | None = None


def onnx_runner(path: Path) -> Runner:
    """An ``.onnx`` file on ONNX Runtime's CPU provider; one of ours in a :class:`Session`.

    Raises:
        ValueError: ONNX Runtime cannot read it, or it has several inputs or outputs.
        ImportError: ONNX Runtime is not installed.
    """
    onnxruntime = require("onnxruntime", "an .onnx file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has errors of its own kinds
        raise _unread(path, error) from error
    if METADATA in session.get_modelmeta().custom_metadata_map:
        return _ours(path, "onnxruntime")
    _check_one(path, len(session.get_inputs()), len(session.get_outputs()))
    [given] = session.get_inputs()
    count = given.shape[0] if given.shape and isinstance(given.shape[0], int) else None
    return Runner(lambda images: torch.from_numpy(session.run(None, {given.name: _array(images)})[0]), count)


def openvino_runner(path: Path) -> Runner:
    """OpenVINO's ``.xml`` with its ``.bin`` on its CPU device, in float32 where it is not integer; one of
    ours in a :class:`Session`. Raises as :func:`onnx_runner`."""
    core = openvino_core("an .xml file")
    try:
        graph = core.read_model(path)
        compiled = core.compile_model(
            graph,
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()},
        )
    except RuntimeError as error:
        raise _unread(path, error) from error
    if graph.has_rt_info(METADATA):
        return _ours(path, "openvino")
    _check_one(path, len(graph.inputs), len(graph.outputs))
    shape = graph.input(0).get_partial_shape()
    count = shape[0].get_length() if shape.rank.is_static and shape[0].is_static else None
    request = compiled.create_infer_request()
    return Runner(
        lambda images: torch.from_numpy(np.array(request.infer({0: _array(images)})[compiled.outputs[0]])),
        count,
    )


def tflite_runner(path: Path) -> Runner:
    """A ``.tflite`` file on LiteRT, channels last, and integers by their scale and zero point, as the
    file says. Raises as :func:`onnx_runner`."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(f"{path} needs ai-edge-litert: pip install 'quantizable[tflite]'") from error
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _unread(path, error) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check_one(path, len(inputs), len(outputs))
    [given], [found] = inputs, outputs

    def run(images: Tensor) -> Tensor:
        array = _array(images)
        if array.shape[1:] != tuple(given["shape"][1:]):
            array = array.transpose(0, 2, 3, 1)
        interpreter.set_tensor(given["index"], _codes(array, given))
        interpreter.invoke()
        return torch.from_numpy(_values(interpreter.get_tensor(found["index"]), found))

    return Runner(run, int(given["shape"][0]))


def _codes(array: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    if about["dtype"] == np.float32:
        return np.ascontiguousarray(array)
    scale, zero_point = about["quantization"]
    limits = np.iinfo(about["dtype"])
    codes = np.round(array / scale + zero_point).clip(limits.min, limits.max)
    return codes.astype(about["dtype"])


def _values(array: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    if about["dtype"] == np.float32:
        return array
    scale, zero_point = about["quantization"]
    return ((array.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _ours(path: Path, engine: str) -> Runner:
    session = Session(path, engine)
    takes_bytes = bool(session.info.get(BYTES_KEY))  # it normalizes them itself

    def run(images: Tensor) -> Tensor:
        given = images.detach()
        given = (255 * given).round().clamp(0, 255).to(torch.uint8) if takes_bytes else given
        return torch.from_numpy(only_tensor(session(given), "a comparison of predictions"))

    mean, std = (() if takes_bytes else session.info.get(key) or () for key in ("mean", "std"))
    return Runner(run, normalization=(mean, std))


def _array(images: Tensor) -> np.ndarray:
    return images.detach().contiguous().numpy()


def _check_one(path: Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise ValueError(f"{path} has {inputs} inputs and {outputs} outputs; give a model of one and one")


def _unread(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}")
