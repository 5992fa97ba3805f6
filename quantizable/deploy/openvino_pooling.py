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
        readers, options = codes.output(0).get_target_inputs(), pool.get_attributes()
        grid.input(0).replace_source_output(pool.input_value(0))
        names = ("strides", "dilations", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
        pooled = ops.max_pool(codes.output(0), *(options[name] for name in names))
        pooled.set_friendly_name(pool.get_friendly_name())
        for reader in readers:
            reader.replace_source_output(pooled.output(0))


def with_even_windows(graph: Any) -> None:
    """Let average pooling round the number of its windows down where that is the same, in place.

    Args:
        graph: an ``openvino.Model``.
    """
    ops = require("openvino", "engine 'openvino'").opset13
    for pool in graph.get_ordered_ops():
        if (
            pool.get_type_name() != "AvgPool"
            or (options := pool.get_attributes())["rounding_type"] == "floor"
        ):
            continue
        pads, kernel = (options["pads_begin"], options["pads_end"]), options["kernel"]
        sizes = pool.get_input_partial_shape(0)
        if options["auto_pad"] != "explicit" or any(size.is_dynamic for size in list(sizes)[2:]):
            continue
        held = [size.get_length() for size in list(sizes)[2:]]
        shape = zip(held, *pads, kernel, options["strides"], strict=True)
        if any((size + begin + end - window) % step for size, begin, end, window, step in shape):
            continue
        even = ops.avg_pool(
            pool.input_value(0),
            options["strides"],
            *pads,
            kernel,
            options["exclude-pad"],
            "floor",
            "explicit",
        )
        even.set_friendly_name(pool.get_friendly_name())
        for reader in pool.output(0).get_target_inputs():
            reader.replace_source_output(even.output(0))


def _follows_convolution(pool: Any) -> bool:
    source = pool.input_value(0).get_node()
    if len(pool.input_value(0).get_target_inputs()) != 1:
        return False
    return integer_convolution(
        source.input_value(0).get_node() if source.get_type_name() == "Relu" else source
    )
