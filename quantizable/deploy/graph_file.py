"""What an ``.onnx`` file, or OpenVINO's ``.xml`` with its ``.bin``, holds and says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from quantizable.bits import BitMode
from quantizable.deploy.export import METADATA
from quantizable.deploy.requirements import openvino_core, require
from quantizable.storage.golden import Golden
from quantizable.storage.network_file import check_graph_file
from quantizable.storage.outputs import OUTPUT, Structure
from quantizable.storage.seal import KEY, check_seal


class GraphFile(NamedTuple):
    """An exported file, read.

    Attributes:
        graph: as engines take it.
        modes: its mode; none where it holds a mode per layer.
        info: see :func:`quantizable.storage.preprocessing.preprocessing`.
        input_size: of one input, without the batch.
        outputs: names and structure of what it returns.
        golden: its golden samples.
        residual: ``"int8"`` if residual additions are on integers, too.
    """

    graph: bytes | Path
    modes: list[BitMode]
    info: dict[str, Any]
    input_size: tuple[int, ...]
    outputs: Structure
    golden: Golden | None
    residual: str


def read_graph(path: Path, verify: bool = True) -> GraphFile:
    """Read an ``.onnx`` or ``.xml`` file.

    Args:
        path: the file; OpenVINO's weights lie beside it.
        verify: compare the contents with their checksum.

    Raises:
        FileNotFoundError: the file, or its weights, are not there.
        ValueError: it is damaged, not of this library, or for compilers alone.
        ImportError: what reads it is not installed.
    """
    check_graph_file(path)
    read = _read_openvino if path.suffix == ".xml" else _read_onnx
    try:
        graph, metadata, size = read(path, verify)
        about = json.loads(metadata)
        bits, info, golden = about["bits"], about["info"], Golden.read(about.get("golden"))
    except ImportError:
        raise
    except Exception as error:  # protobuf and OpenVINO answer damaged bytes with errors of many kinds
        if isinstance(error, ValueError) and "checksum" in str(error):
            raise
        which, both = str(path), ""
        if path.suffix == ".xml":
            which = f"{path} or {path.with_suffix('.bin').name}"
            both = ", or the two do not belong together; copy or export both again"
        raise ValueError(f"{which} is truncated, or was not exported by this library{both}") from error
    if about.get("style") == "qonnx":
        raise ValueError(f"{path} is in style qonnx, for FPGA compilers; engines run style qdq")
    modes = [] if isinstance(bits, dict) else [BitMode.parse(bits)]
    residual = about.get("residual additions", "")
    return GraphFile(graph, modes, info, size, about.get("outputs", OUTPUT), golden, residual)


def _read_onnx(path: Path, verify: bool) -> tuple[bytes | Path, str, tuple[int, ...]]:
    onnx = require("onnx", "reading an .onnx file")
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    _, *size = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    entries = {p.key: p.value for p in model.metadata_props}
    if verify and KEY in entries:
        check_seal(str(path), content, entries[KEY])
    return content, entries[METADATA], tuple(size)


def _read_openvino(path: Path, verify: bool) -> tuple[bytes | Path, str, tuple[int, ...]]:
    graph = openvino_core("reading an .xml file").read_model(path)
    weights = path.with_suffix(".bin")
    if verify and graph.has_rt_info(KEY):
        name = f"{path} or {weights.name}"
        check_seal(name, path.read_bytes(), graph.get_rt_info(KEY).astype(str), weights.read_bytes())
    _, *size = graph.input(0).get_partial_shape()  # the batch is free
    return path, graph.get_rt_info(METADATA).astype(str), tuple(d.get_length() for d in size)
