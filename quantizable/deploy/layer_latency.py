"""How long each layer takes on an engine in each mode: the table that a search within milliseconds needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
from torch import nn

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.deploy.engines import Runner, compile_onnxruntime, compile_openvino
from quantizable.deploy.export import onnx_model
from quantizable.interface.progress import progress
from quantizable.measure.latency import interleaved
from quantizable.network import QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.nn.embedding import EMBEDDINGS
from quantizable.nn.layer_calls import layer_calls
from quantizable.nn.passes import evaluating
from quantizable.storage.signature import example_inputs

COMPILERS: dict[str, Callable[[bytes, int, tuple[int, ...]], Runner]] = {
    "onnxruntime": compile_onnxruntime,
    "openvino": compile_openvino,
}


def layer_latencies(
    network: QuantizableNetwork,
    input_size: tuple[int, ...] | None = None,
    engine: str = "openvino",
    threads: int = 1,
    repeats: int = 20,
) -> dict[str, dict[str, float]]:
    """Median milliseconds of one image by layer and mode, ``{"layer1.0.conv1": {"4": 0.1, "w4a8": ...}}``.

    Each layer is exported on its own, with the quantization of its input, and timed at batch 1 (see
    :func:`quantizable.measure.latency.interleaved`). Layers of one shape are timed once; a layer that is
    used more than once takes the sum over its uses, one that evaluation never calls none. What lies between
    layers (norms, additions, pooling) and what an engine gains by fusing layers are not
    in it, so that the sum ranks assignments and is not the latency of the network.

    Args:
        network: calibrated or trained; it is left as it is.
        input_size: channels, height, width of an image; None: what the network's ``info`` says.
        engine: ``"openvino"`` or ``"onnxruntime"``.
        threads: of one inference.
        repeats: timed inferences of each, at least 1.

    Raises:
        ValueError: an unknown engine, a number out of range, attention or embeddings, or no calibration.
        ImportError: the engine is not installed.
    """
    if engine not in COMPILERS:
        raise ValueError(f"engine {engine!r} times no single layers; choose from {', '.join(COMPILERS)}")
    if threads < 1 or repeats < 1:
        raise ValueError(f"threads is {threads} and repeats {repeats}; both are at least 1")
    alone = ((n, m) for n, m in network.layers().items() if not isinstance(m, EMBEDDINGS))
    layers = {name: layer for name, layer in alone if isinstance(layer, QuantLayer)}
    if others := [name for name in network.layers() if name not in layers]:
        raise ValueError(
            f"layer {others[0]!r} is attention or an embedding, which cannot be timed on its own; "
            "limit bops or bytes instead"
        )
    with evaluating(network):
        calls = layer_calls(network, layers, example_inputs(network, 1, input_size))
    runs: dict[str, Callable[[], object]] = {}
    keys: dict[str, dict[str, list[str]]] = {}  # what was timed for each use of a layer, by mode
    for name, layer in progress(layers.items(), f"exporting layers for {engine}"):
        keys[name] = {mode.name: [] for mode in _modes(layer)}
        for mode, call in product(_modes(layer), calls[name]):
            shape = tuple(call.given[1:])
            key = f"{_signature(layer, shape)} at {mode.name}"
            keys[name][mode.name].append(key)
            if key not in runs:
                run = _compiled(layer, mode, shape, engine, threads)
                runs[key] = partial(run, np.zeros((1, *shape), np.float32))
    found = interleaved(runs, repeats)
    return {
        name: {mode: sum(found[key] for key in used) for mode, used in row.items()}
        for name, row in keys.items()
    }


def _modes(layer: QuantLayer) -> Iterator[BitMode]:
    """Every pair of widths that the layer holds and an engine runs on integers."""
    held = [
        [bits for bits in quantizer.widths if bits <= 8] or [FLOAT_BITS]
        for quantizer in (layer.weight_quantizer, layer.input_quantizer)
    ]
    return (BitMode(w, a) for w, a in product(*held))


def _compiled(layer: QuantLayer, mode: BitMode, shape: tuple[int, ...], engine: str, threads: int) -> Runner:
    alone = QuantizableNetwork(nn.Sequential(deepcopy(layer)).eval(), [mode], {})
    model = onnx_model(alone, mode, input_size=shape)
    return COMPILERS[engine](model.SerializeToString(), threads, (1, *shape))


def _signature(layer: QuantLayer, shape: tuple[int, ...]) -> str:
    """Equal for layers that take equally long: class, settings, widths and input."""
    widths = layer.weight_quantizer.widths, layer.input_quantizer.widths
    return f"{type(layer).__name__}({layer.extra_repr()}) {tuple(layer.weight.shape)} {widths} on {shape}"
