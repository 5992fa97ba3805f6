"""One mode of a network as an ONNX file (or OpenVINO's own format) that engines run on integers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.deploy.engines import compile_onnxruntime
from quantizable.deploy.in_graph import mean_and_std, normalizing
from quantizable.deploy.integer_nodes import LAYER_KEY, OPSET, node_layer
from quantizable.deploy.layer_bias import with_bias
from quantizable.deploy.layer_report import layer_report
from quantizable.deploy.lowering import Lowered, lower
from quantizable.deploy.repeated_codes import drop_repeated_codes
from quantizable.deploy.requirements import require
from quantizable.deploy.residual import integer_residuals
from quantizable.interface.choices import PREPROCESS, STYLES, WEIGHT_STORAGE
from quantizable.interface.errors import unknown
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn.added_modes import ASSIGNMENTS
from quantizable.nn.network_inputs import Inputs
from quantizable.report.files import check_target, written_whole
from quantizable.storage.golden import MIXED, golden
from quantizable.storage.outputs import OUTPUT, FlatOutputs, NamedInputs, names_in
from quantizable.storage.preprocessing import BYTES_KEY, preprocessing
from quantizable.storage.seal import BLANK, KEY, sealed
from quantizable.storage.signature import Signature, example_inputs, signature_of, takes_one

NOT_TRACED = (
    "the network's forward cannot be traced for batches of any size, and an export would hold no integers; "
    "look for len(x), int() or shapes written as numbers in it (x.size(0) can be traced), for packed "
    "sequences, and for inputs whose first axis is time (give [N, T, features]; inside, x.transpose(0, 1) "
    "can be traced)"
)
METADATA = "quantizable"  # key of the file's metadata: JSON with mode, style, preprocessing and layer report


def export_onnx(
    network: QuantizableNetwork,
    path: str | Path,
    bits: Assignment,
    *,
    input_size: tuple[int, ...] | None = None,
    style: str = "qdq",
    weight_storage: str = "int8",
    residual_images: Tensor | None = None,
    preprocess: str = "outside",
) -> dict[str, str]:
    """Write one mode as ONNX and return how each layer runs (``{"layer1.0.conv1": "integer w4a4", ...}``).

    Args:
        network: calibrated or trained.
        path: the file to write.
        bits: a mode of the network (``4``, ``"w4a8"``; 32: float), or a mapping as ``set_bits`` takes it.
        input_size: channels, height, width, or the shape of another input (steps and features of a sequence),
            without the batch; by default the network's own. A network whose ``info`` names a number of
            ``input_ids`` takes integers below it. What a network of several inputs takes is said by
            ``network.info |= describe_inputs(network, batch)``.
        style: ``"qdq"`` (QuantizeLinear, Clip, DequantizeLinear: ONNX Runtime, OpenVINO, TensorRT) or
            ``"qonnx"`` (``Quant`` nodes of any width: FPGA compilers).
        weight_storage: ``"int8"``, or ``"int4"`` to store weights of 4 bits and less in half the bytes.
        residual_images: ``[N, C, H, W]``, normalized as in training, to fit 8-bit codes for the operands of
            residual additions on. Faster on OpenVINO, and no longer exactly the mode that was trained;
            None: additions stay in float.
        preprocess: ``"outside"``: the file takes float images, normalized as in training. ``"in-graph"``: it
            takes uint8 images (RGB, resized and cropped) and normalizes them by the ``mean`` and the ``std``
            of ``network.info``.

    Raises:
        ValueError: an unknown option, a mode that the network lacks or of more than 8 bits, no calibration.
        OSError: the target cannot be written.
        ImportError: onnx or onnxscript is missing.
    """
    path = check_target(path)
    model = onnx_model(
        network, bits, input_size=input_size, style=style, weight_storage=weight_storage,
        residual_images=residual_images, preprocess=preprocess, samples=True,
    )  # fmt: skip
    with written_whole(path) as temporary:
        temporary.write_bytes(sealed(model.SerializeToString(deterministic=True)))
    return json.loads({p.key: p.value for p in model.metadata_props}[METADATA])["layers"]


def onnx_model(
    network: QuantizableNetwork,
    bits: Assignment,
    *,
    input_size: tuple[int, ...] | None = None,
    style: str = "qdq",
    weight_storage: str = "int8",
    residual_images: Tensor | None = None,
    preprocess: str = "outside",
    samples: bool = False,
) -> Any:
    """The ``onnx.ModelProto`` that :func:`export_onnx` writes, with ``samples`` for a file of its own."""
    for what, value, allowed in (
        ("style", style, STYLES),
        ("weight_storage", weight_storage, WEIGHT_STORAGE),
        ("preprocess", preprocess, PREPROCESS),
    ):
        if value not in allowed:
            raise ValueError(unknown(what, value, allowed))
    if (style, weight_storage) == ("qonnx", "int4"):
        raise ValueError("Quant nodes hold float weights; choose style 'qdq' to store weights in int4")
    onnx = require("onnx", "ONNX export")
    require("onnxscript", "ONNX export")
    signature = signature_of(network, input_size)
    if residual_images is not None:
        check_residual(network, style, signature)
    statistics = mean_and_std(network, signature) if preprocess == "in-graph" else None
    example = example_inputs(network, 2, input_size)
    lowered = lower(network, bits, example, share_remainders=style == "qdq")
    _check_widths(lowered)
    for name, weight in lowered.weights.items():
        weight.style = style
        if style == "qdq" and weight_storage == "int8" and name in lowered.inputs:
            weight.use_headroom(lowered.inputs[name].highest_code)
    if style == "qdq":
        with_bias(map(lowered.model.get_submodule, lowered.weights))
    for given in lowered.inputs.values():
        given.style = style
    model = _to_onnx(lowered, example, signature)
    drop_repeated_codes(model.graph)
    if residual_images is not None:
        model = integer_residuals(model, residual_images)
    if statistics:
        model = normalizing(model, *statistics)
    if weight_storage == "int4":
        _store_int4(onnx, model)
    shown = by_layer(network, bits)
    about: dict[str, Any] = {"bits": shown, "style": style, "layers": layer_report(lowered)}
    about["info"] = preprocessing(network) | ({BYTES_KEY: True} if statistics else {})
    about["outputs"] = lowered.outputs
    about["residual additions"] = "float" if residual_images is None else "int8"
    if network.additions():
        about["residual additions"] = "as trained"
    if samples:
        name = MIXED if isinstance(shown, dict) else str(shown)
        kept = golden(network, {name: bits}, input_size, image_bytes=statistics is not None)
        if residual_images is not None:  # the file computes another function than training did
            kept = kept.answered_by(compile_onnxruntime(model.SerializeToString(), None, None))
        about["golden"] = kept.plain()
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)} | ({KEY: BLANK} if samples else {}))
    return model


def by_layer(network: QuantizableNetwork, bits: Assignment) -> int | str | dict[str, int | str]:
    """What a file says of its bits: a mode, or the mode of each layer, of an assignment with a name, too."""
    with network.at_bits(bits):
        shown = network.bits
    return network.config.get(ASSIGNMENTS, {}).get(shown, shown) if isinstance(shown, str) else shown


def check_residual(network: QuantizableNetwork, style: str, signature: Signature) -> None:
    """``ValueError`` where additions cannot be fitted to images at export."""
    if style != "qdq":
        raise ValueError(f"integer residual additions need style 'qdq', not {style!r}")
    if network.additions():
        raise ValueError(
            "the network was made with residual=..., and its additions are integer already; export it "
            "without residual_images (--residual float)"
        )
    if not takes_one(signature):
        raise ValueError(
            f"int8 residual additions are fitted to images; the network takes {', '.join(signature)}"
        )


def fits_bytes(mode: BitMode) -> bool:
    """True if engines can hold a mode's codes: 8 bits at most, or float."""
    return all(bits <= 8 or bits == FLOAT_BITS for bits in (mode.weight, mode.activation))


def _check_widths(lowered: Lowered) -> None:
    wide = [n.layer for n in lowered.inputs.values() if not n.fits_uint8]
    wide += [n.layer for n in lowered.weights.values() if n.bits > 8]
    if wide:
        raise ValueError(
            f"ONNX files hold codes of up to 8 bits; {wide[0]!r} has more (choose a mode of 8 bits or less)"
        )


def _to_onnx(lowered: Lowered, example: Inputs, signature: Signature) -> Any:
    names = names_in(lowered.outputs)
    model: nn.Module = lowered.model
    given: Any = [example.kwargs.get(name) for name in signature]
    shapes: Any = [{0: torch.export.Dim.DYNAMIC}] * len(signature)
    if takes_one(signature):
        (given,), (shapes,) = example.args, shapes
    else:
        model = NamedInputs(model, list(signature))
    if names != [OUTPUT]:
        model = FlatOutputs(model)
    with _quiet():
        try:
            program = torch.onnx.export(
                model, (given,), dynamo=True, opset_version=OPSET, verbose=False,
                dynamic_shapes=(shapes,), input_names=list(signature),
            )  # fmt: skip
        except OnnxExporterError as error:
            raise ValueError(NOT_TRACED) from error
    assert program is not None
    _name_outputs(program.model.graph, names, signature)
    proto = program.model_proto
    # the exporter then falls back, silently, to a trace in which the nodes write floats
    if lowered.inputs and not any(map(node_layer, proto.graph.node)):
        raise ValueError(NOT_TRACED)
    _drop_notes(proto.graph)
    return proto


def _name_outputs(graph: Any, names: list[str], inputs: Collection[str]) -> None:
    """Name the outputs of an ``onnx_ir`` graph; a value inside of such a name, or an input's, is renamed."""
    for node in graph:
        for value in node.outputs:
            if value.name in names or value.name in inputs:
                value.name = f"{value.name}.inside"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _drop_notes(graph: Any) -> None:
    """Drop the exporter's notes, half of the file: stack traces, with the folders of who exports it."""
    for node in graph.node:
        layer = node_layer(node)
        node.ClearField("metadata_props")
        if layer is not None:
            node.metadata_props.add(key=LAYER_KEY, value=layer)
    for held in (graph, *graph.value_info, *graph.input, *graph.output):
        held.ClearField("metadata_props")


def _store_int4(onnx: Any, model: Any) -> None:
    """Weights of 4 bits and less as INT4 tensors, two to a byte."""
    int4 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4)
    held = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        tensor = held.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is None:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == "int8" and values.min() >= -8 and values.max() <= 7:
            packed = onnx.numpy_helper.from_array(values.astype(int4), tensor.name)
            tensor.CopyFrom(packed)
    for value in model.graph.value_info:
        if value.name in held:
            value.type.tensor_type.elem_type = held[value.name].data_type


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress messages; its errors come through as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
