"""Reading a file that holds one graph: ``.onnx``, or OpenVINO's ``.xml``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from quantizable.deploy.export import METADATA
from quantizable.deploy.requirements import openvino_core, require
from quantizable.storage.network_file import check_file
from quantizable.storage.seal import KEY, check_seal


class GraphFile(NamedTuple):
    """What a file holds.

    Attributes:
        graph: the bytes of an ONNX file, or the path of OpenVINO's.
        about: the metadata that the export wrote.
        size: shape of the first input without the batch.
    """

    graph: bytes | Path
    about: dict[str, Any]
    size: tuple[int, ...]


def read_graph(path: Path, verify: bool) -> GraphFile:
    """Read a file.

    Args:
        path: of an ``.onnx`` or ``.xml`` file.
        verify: compare it with its checksum.

    Raises:
        FileNotFoundError, ValueError: no such file, one that was changed, or not one of this library.
        ImportError: what reads it is not installed.
    """
    check_file(path)
    try:
        graph, metadata, size = (_onnx if path.suffix == ".onnx" else _openvino)(path, verify)
        about = json.loads(metadata)
        _ = about["bits"], about["info"]
    except ImportError:
        raise
    except Exception as error:  # protobuf and OpenVINO answer damaged bytes with errors of many kinds
        if isinstance(error, ValueError) and "checksum" in str(error):
            raise
        raise ValueError(f"{path} is truncated, or was not exported by this library") from error
    return GraphFile(graph, about, size)


def _onnx(path: Path, verify: bool) -> tuple[bytes | Path, str, tuple[int, ...]]:
    onnx = require("onnx", "reading an .onnx file")
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    _, *size = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    entries = {p.key: p.value for p in model.metadata_props}
    if verify and KEY in entries:
        check_seal(str(path), content, entries[KEY])
    return content, entries[METADATA], tuple(size)


def _openvino(path: Path, verify: bool) -> tuple[bytes | Path, str, tuple[int, ...]]:
    graph = openvino_core("reading an .xml file").read_model(path)
    if verify and graph.has_rt_info(KEY):
        weights = path.with_suffix(".bin").read_bytes()
        check_seal(str(path), path.read_bytes(), graph.get_rt_info(KEY).astype(str), weights)
    _, *size = graph.input(0).get_partial_shape()  # the batch is free
    return path, graph.get_rt_info(METADATA).astype(str), tuple(d.get_length() for d in size)
