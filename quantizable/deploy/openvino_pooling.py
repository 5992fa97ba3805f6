"""OpenVINO graphs whose pooling runs on codes, with the same results.

A grid's codes grow with the values, so that the code of the largest is the largest of the codes. OpenVINO
does not use that: it writes the convolution's floats, pools them and finds the codes in a pass of its own.
Average pooling of codes it runs on integers, unless the number of windows is rounded up.
"""

from __future__ import annotations

from typing import Any

from quantizable.deploy.openvino_additions import integer_convolution, only_reader
from quantizable.deploy.requirements import require


def with_pooled_codes(graph: Any) -> None:
    """Put maximum pooling of an integer convolution's output behind the codes that are found of it, in place.

    Args:
        graph: an ``openvino.Model``.
    """
    ops = require("openvino", "engine 'openvino'").opset14
    for pool in graph.get_ordered_ops():
        if pool.get_type_name() != "MaxPool" or not _follows_convolution(pool):
            continue
        grid = only_reader(pool, "FakeQuantize")
        codes = only_reader(grid, "Convert") if grid is not None else None
        if codes is None:
            continue
        for kind in ("Maximum", "Minimum"):  # of fewer bits than 8, the codes are clamped next
            codes = only_reader(codes, kind) or codes
        readers, options = codes.output(0).get_target_inputs(), pool.get_attributes()
        grid.input(0).replace_source_output(pool.input_value(0))
        names = ("strides", "dilations", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
        pooled = ops.max_pool(codes.output(0), *(options[name] for name in names))
        pooled.set_friendly_name(pool.get_friendly_name())
        for reader in readers:
            reader.replace_source_output(pooled.output(0))


def with_even_windows(graph: Any) -> None:
    """Let average pooling round the number of its windows down where they fit anyway, in place.

    Args:
        graph: an ``openvino.Model``.
    """
    ops = require("openvino", "engine 'openvino'").opset13
    for pool in graph.get_ordered_ops():
        if pool.get_type_name() == "AvgPool" and _rounds_up_in_vain(pool):
            options, readers = pool.get_attributes(), pool.output(0).get_target_inputs()
            kept = [options[name] for name in ("strides", "pads_begin", "pads_end", "kernel", "exclude-pad")]
            even = ops.avg_pool(pool.input_value(0), *kept, "floor", "explicit")
            even.set_friendly_name(pool.get_friendly_name())
            for reader in readers:
                reader.replace_source_output(even.output(0))


def _rounds_up_in_vain(pool: Any) -> bool:
    """True if the number of windows is rounded up, and is a whole number."""
    options, sizes = pool.get_attributes(), list(pool.get_input_partial_shape(0))[2:]
    if options["rounding_type"] == "floor" or options["auto_pad"] != "explicit":
        return False
    names = ("pads_begin", "pads_end", "kernel", "strides")
    return all(
        size.is_static and (size.get_length() + begin + end - window) % step == 0
        for size, begin, end, window, step in zip(sizes, *(options[name] for name in names), strict=True)
    )


def _follows_convolution(pool: Any) -> bool:
    """True if it is all that reads an integer convolution, or the ReLU behind one."""
    source = pool.input_value(0).get_node()
    if len(pool.input_value(0).get_target_inputs()) != 1:
        return False
    if source.get_type_name() == "Relu":
        source = source.input_value(0).get_node()
    return integer_convolution(source)
