"""OpenVINO's own files (``.xml`` and ``.bin``), which load faster than ONNX and hold the same graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantizable.deploy.export import METADATA, onnx_model
from quantizable.deploy.openvino_reductions import with_kept_axes
from quantizable.deploy.requirements import openvino_core, require
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.report.files import check_target, written_whole
from quantizable.storage.seal import BLANK, KEY, sealed


def export_openvino(
    network: QuantizableNetwork, path: str | Path, bits: Assignment, **options: Any
) -> dict[str, str]:
    """Write one mode in OpenVINO's format and return how each layer runs.

    Args:
        network, bits, options: as for ``export_onnx``.
        path: the ``.xml`` file; the weights go to the ``.bin`` file of the same name.

    Raises:
        ValueError, OSError, ImportError: as ``export_onnx``, or the path does not end in ``.xml``.
    """
    path = check_target(path)
    if path.suffix != ".xml":
        raise ValueError(f"{path} does not end in .xml, as OpenVINO's files do")
    openvino = require("openvino", "OpenVINO export")
    model = onnx_model(network, bits, **options, samples=True)
    about = {p.key: p.value for p in model.metadata_props}[METADATA]
    del model.metadata_props[:]  # OpenVINO would take them over: the digest is this file's own
    graph = openvino_core("OpenVINO export").read_model(model.SerializeToString())
    with_kept_axes(graph)  # for programs that read the file themselves
    for number, node in enumerate(graph.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():  # counted since the process began
            node.set_friendly_name(f"{node.get_type_name()}.{number}")
    graph.set_rt_info(about, METADATA)
    graph.set_rt_info(BLANK, KEY)
    # OpenVINO derives the name of the weights from that of the graph, as written_whole does
    with written_whole(path) as temporary, written_whole(path.with_suffix(".bin")) as weights:
        openvino.save_model(graph, temporary, compress_to_fp16=False)
        temporary.write_bytes(sealed(temporary.read_bytes(), weights.read_bytes()))
    return json.loads(about)["layers"]
