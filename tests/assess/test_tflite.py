"""TFLite files, where LiteRT is installed: one linear layer in float and in integers, written by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quantizable.assess.model_name import read_name
from quantizable.assess.outside import open_model, ready

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert, the extra tflite")
flatbuffers = pytest.importorskip("flatbuffers")

STEP, ZERO = 1 / 255, -128  # of int8 inputs
OUT = 0.1  # step of int8 outputs
WEIGHT = 0.02  # step of int8 weights
CODES = np.random.default_rng(0).integers(-20, 21, (3, 32)).astype(np.int8)
PIXELS = torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def write(path: Path, integers: bool) -> None:
    """A reshape of ``[1, 4, 4, 2]``, channels last, and a linear layer to 3 classes."""
    from ai_edge_litert import schema_py_generated as schema

    kind = schema.TensorType.INT8 if integers else schema.TensorType.FLOAT32

    def tensor(name, shape, scale, zero, buffer=0):  # type: ignore[no-untyped-def]
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
        if integers:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        return made

    def operator(index, inputs, outputs, options, name):  # type: ignore[no-untyped-def]
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = index, inputs, outputs
        made.builtinOptions, made.builtinOptionsType = options, getattr(schema.BuiltinOptions, name)
        return made

    def code(name):  # type: ignore[no-untyped-def]
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        made.version = 4 if name == "FULLY_CONNECTED" else 1
        return made

    def buffer(values=None):  # type: ignore[no-untyped-def]
        made = schema.BufferT()
        made.data = None if values is None else np.frombuffer(values.tobytes(), np.uint8)
        return made

    shape = schema.ReshapeOptionsT()
    shape.newShape = [1, 32]
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("image", [1, 4, 4, 2], STEP, ZERO), tensor("flat", [1, 32], STEP, ZERO),
        tensor("weight", [3, 32], WEIGHT, 0, 1), tensor("logits", [1, 3], OUT, 0),
    ]  # fmt: skip
    graph.inputs, graph.outputs = [0], [3]
    linear = schema.FullyConnectedOptionsT()
    graph.operators = [
        operator(0, [0], [1], shape, "ReshapeOptions"),
        operator(1, [1, 2, -1], [3], linear, "FullyConnectedOptions"),
    ]
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    model.operatorCodes = [code("RESHAPE"), code("FULLY_CONNECTED")]
    model.buffers = [buffer(), buffer(CODES if integers else (CODES * WEIGHT).astype(np.float32))]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@pytest.mark.parametrize("integers", [False, True])
def test_a_tflite_file_gives_its_logits(tmp_path: Path, integers: bool) -> None:
    path = tmp_path / "linear.tflite"
    write(path, integers)
    model = ready(open_model(read_name(str(path))), "linear", PIXELS)
    assert model.batch == 1
    shown = (PIXELS / STEP).round() * STEP if integers else PIXELS
    logits = shown.permute(0, 2, 3, 1).flatten(1).double() @ torch.from_numpy(CODES).double().T * WEIGHT
    # integers: the output is rounded to its step
    torch.testing.assert_close(model(PIXELS).double(), logits, atol=OUT * 0.51 if integers else 1e-5, rtol=0)
