"""Which images have a code so near a rounding tie that an engine's own order of sums may move it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.processor import VARIABLE
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.nn import QuantLayer
from quantizable.quantizers import Unrounded
from quantizable.storage.integers import integer_input, is_quantized

ROUNDING = 2.0**-20  # of the largest code: a few of float32's 2^-24, for scale, bias and a sum


@torch.no_grad()
def near_ties(network: QuantizableNetwork, bits: Assignment, images: Tensor) -> dict[str, np.ndarray]:
    """By layer, for each image, whether one of its codes lies within rounding of a tie, ``[N]``."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, quantizer, inputs: tuple[Tensor, ...]) -> None:
        if not is_quantized(quantizer):
            return
        grid = integer_input(quantizer, quantizer.bits)
        real = inputs[0].double() / grid.scale.double() + grid.zero_point + grid.remainder
        inside = (real > grid.low - 1) & (real < grid.high + 1)
        near = ((real - real.floor() - 0.5).abs() < ROUNDING * max(grid.high, -grid.low)) & inside
        found[name] = near.flatten(1).any(1).numpy()

    quantizers = {n: m.input_quantizer for n, m in network.layers().items() if isinstance(m, QuantLayer)}
    for name, additions in network.additions().items():
        rounding = {k: m for k, m in additions.operands.items() if not isinstance(m, Unrounded)}
        quantizers |= {f"{name}.{key}": quantizer for key, quantizer in rounding.items()}
    handles = [
        quantizer.register_forward_pre_hook(lambda q, x, n=name: note(n, q, x))
        for name, quantizer in quantizers.items()
    ]
    try:
        with network.at_bits(bits):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def assert_equal_but_for_ties(
    got: np.ndarray, network: QuantizableNetwork, bits: Assignment, images: Tensor
) -> None:
    """An engine's logits are the fake-quant network's, but for images with a tie, which are named.

    Images without a tie must be equal to float32's rounding. At least a third must be such images, so that
    the comparison says something.
    """
    with network.at_bits(bits), torch.no_grad():
        expected = network(images).numpy()
    ties: Mapping[str, np.ndarray] = near_ties(network, bits, images)
    tied = np.any(list(ties.values()), axis=0)
    named = {layer: np.flatnonzero(rows).tolist() for layer, rows in ties.items() if rows.any()}
    assert 3 * (~tied).sum() >= len(images), f"ties in too many images: {named}"
    apart = np.abs(got - expected).max(1) > 1e-5 * np.abs(expected).max()
    wrong = np.flatnonzero(apart & ~tied)
    assert not len(wrong), f"images {wrong.tolist()} differ without a tie; those with one: {named}"
    assert np.abs(got - expected).max() < 0.2 * np.abs(expected).max()


def answers_of_both_kernels(
    engine: str, model: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[np.ndarray]:
    """An ONNX model's logits on the processor's own kernels, and on the path for those that saturate."""
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    compiled = {"onnxruntime": compile_onnxruntime, "openvino": compile_openvino}[engine]
    found = []
    for kernels in (None, "saturating"):
        if kernels is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, kernels)
        found.append(compiled(model.SerializeToString(), 1, tuple(images.shape))(images.numpy()))
    return found
