"""The memo of the tests: what it shares was exported for the same content."""

import functools

import pytest
import torch
from torch import nn

from quantizable.deploy import export
from quantizable.deploy.export import onnx_model
from tests.export_memo import ExportMemo, digest
from tests.small_net import SmallNet, images, make, trained_like

__all__ = ["images", "make"]
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")


def test_what_is_shared_is_what_the_exporter_would_write(make, shared_exports: ExportMemo) -> None:
    assert export._to_onnx is shared_exports  # type: ignore[comparison-overlap]
    network = make(bits=(2, 4))
    four, two = onnx_model(network, 4), onnx_model(network, 2)
    count = len(shared_exports.known)
    assert onnx_model(network, 4).SerializeToString() == four.SerializeToString()
    assert len(shared_exports.known) == count
    assert two.SerializeToString() != four.SerializeToString()
    shared_exports.off = True
    try:
        assert onnx_model(network, 4).SerializeToString() == four.SerializeToString()
    finally:
        shared_exports.off = False


def test_any_other_content_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    def network() -> SmallNet:
        torch.manual_seed(0)
        return trained_like(SmallNet())  # type: ignore[return-value]

    found = {"plain": digest(network())}
    assert digest(network()) == found["plain"]
    changed = network()
    changed.head.bias.data[3] += 1e-6  # type: ignore[index]
    found["a number"] = digest(changed)
    changed = network()
    changed.block.stride = (2, 2)
    found["an attribute"] = digest(changed)
    changed = network()
    changed.pool = nn.AdaptiveMaxPool2d(1)  # type: ignore[assignment]
    found["a class"] = digest(changed)
    for slope in (0.1, 0.2):
        changed = network()
        changed.act = functools.partial(torch.add, alpha=slope)  # type: ignore[assignment]
        found[f"partial {slope}"] = digest(changed)
        changed.act = lambda x, slope=slope: x * slope  # type: ignore[assignment]
        found[f"default {slope}"] = digest(changed)
    monkeypatch.setattr(SmallNet, "forward", lambda self, x: self.stem(x))
    found["code"] = digest(network())
    assert len({*found.values()}) == len(found), found
