"""Normalization inside an exported graph: the file takes an image's bytes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantizable.deploy.requirements import require
from quantizable.network import QuantizableNetwork
from quantizable.storage.outputs import INPUT
from quantizable.storage.preprocessing import preprocessing
from quantizable.storage.signature import FLOAT, Signature, takes_one

INSIDE = "normalized"  # what the network reads, a value inside of the graph


def mean_and_std(network: QuantizableNetwork, signature: Signature) -> tuple[list[float], list[float]]:
    """Per channel, of images in [0, 1]: what the graph removes.

    Raises:
        ValueError: the network takes no images, or nothing says how they are normalized.
    """
    one = signature.get(INPUT)
    if not takes_one(signature) or one is None or len(one.size) != 3 or one.type != FLOAT:
        raise ValueError(
            f"preprocess='in-graph' is for networks that read images; this one takes {', '.join(signature)}"
        )
    info = preprocessing(network)
    mean, std = (list(map(float, info.get(key) or ())) for key in ("mean", "std"))
    if not (len(mean) == len(std) == one.size[0]) or not all(std):
        raise ValueError(
            f"preprocess='in-graph' needs the mean and the standard deviation of {one.size[0]} channels: say "
            "them by network.info |= {'mean': [...], 'std': [...]}, of images in [0, 1]"
        )
    return mean, std


def normalizing(model: Any, mean: list[float], std: list[float]) -> Any:
    """The graph behind ``(bytes / 255 - mean) / std``, in place: its input is uint8 ``[N, C, H, W]``.

    The steps and their order are those of training, so that the network reads the same floats.

    Args:
        model: an ``onnx.ModelProto`` whose only input is ``image``.
        mean, std: per channel, of images in [0, 1].
    """
    onnx = require("onnx", "ONNX export")
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    inside = INSIDE
    while inside in taken:
        inside += "_image"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = inside
    steps: list[tuple[str, str, Any]] = [("Div", "white", 255.0), ("Sub", "mean", mean), ("Div", "std", std)]
    nodes = [onnx.helper.make_node("Cast", [INPUT], [f"{inside}_float"], to=onnx.TensorProto.FLOAT)]
    before = nodes[0].output[0]
    for kind, what, value in steps:
        constant = f"{inside}_by_{what}"
        array = np.asarray(value, np.float32).reshape(1, -1, 1, 1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, constant))
        after = inside if what == "std" else f"{inside}_{what}"
        nodes.append(onnx.helper.make_node(kind, [before, constant], [after]))
        before = after
    old = [*model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *old])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return model
