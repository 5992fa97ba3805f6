"""OpenVINO graphs whose reductions (mean, maximum over an axis) keep the axis, and drop it behind.

OpenVINO's integer passes move the scales of a layer, ``[1, 1, C]`` on tokens, behind the reduction that reads
it. Where that drops an axis the scales no longer fit, and the answers are wrong without a word (2026.4).
"""

from __future__ import annotations

from typing import Any

from quantizable.deploy.requirements import require

REDUCTIONS = {
    "ReduceMean": "reduce_mean", "ReduceSum": "reduce_sum",
    "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
}  # fmt: skip


def with_kept_axes(graph: Any) -> None:
    """Let each reduction of an ``openvino.Model`` keep its axes, and squeeze them behind it, in place."""
    ops = require("openvino", "engine 'openvino'").opset13
    for node in graph.get_ordered_ops():
        made = REDUCTIONS.get(node.get_type_name())
        if made is None or node.get_attributes()["keep_dims"]:
            continue
        readers, names = node.output(0).get_target_inputs(), node.output(0).get_names()
        kept = getattr(ops, made)(node.input_value(0), node.input_value(1), keep_dims=True)
        dropped = ops.squeeze(kept, node.input_value(1))
        kept.set_friendly_name(f"{node.get_friendly_name()}.kept")
        dropped.set_friendly_name(node.get_friendly_name())
        dropped.output(0).set_names(names)
        for reader in readers:
            reader.replace_source_output(dropped.output(0))
