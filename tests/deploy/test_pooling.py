"""Pooling and concatenation between integer layers: OpenVINO runs them on codes, and the answers stay."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.engines import compile_openvino, openvino_graph
from quantizable.deploy.export import onnx_model
from quantizable.deploy.processor import exact_kernels
from quantizable.deploy.reference import integer_network
from quantizable.deploy.requirements import openvino_core
from quantizable.network import QuantizableNetwork
from tests.deploy.ties import answers_of_both_kernels, assert_equal_but_for_ties
from tests.small_net import trained_like

SIZE = (3, 16, 16)


def layer(given: int, channels: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(given, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


class ShrinkingBlock(nn.Module):
    """A residual block whose shortcut is pooled, as of timm's ``resnet26d``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = layer(channels, channels, stride=2)
        self.last = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.last(self.first(x)) + self.shortcut(x)).relu()


class PoolingNet(nn.Module):
    """Maximum pooling after the stem, a block with average pooling, two branches that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.block = layer(3, 8), nn.MaxPool2d(3, 2, 1), ShrinkingBlock(8)
        self.one, self.other, self.last = layer(8, 8), layer(8, 4), layer(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.pool(self.stem(x)))
        x = self.last(torch.cat([self.one(x), self.other(x)], 1))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(24, *SIZE)


@pytest.fixture(scope="module")
def exported() -> tuple[QuantizableNetwork, dict[int, Any]]:
    """A network and its modes as ONNX models."""
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    torch.manual_seed(0)
    network = quantizable.quantize(trained_like(PoolingNet()), (4, 8, 32), residual=8).eval()
    network.calibrate([torch.randn(16, *SIZE)])
    return network, {bits: onnx_model(network, bits, input_size=SIZE) for bits in (4, 8)}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_what_was_trained(
    exported, monkeypatch: pytest.MonkeyPatch, batch: Tensor, engine: str, bits: int
) -> None:
    network, models = exported
    for got in answers_of_both_kernels(engine, models[bits], batch, monkeypatch):
        assert_equal_but_for_ties(got, network, bits, batch)
    exact = integer_network(network, bits, batch[:1])(batch.double())
    assert (torch.tensor(got).argmax(1) == exact.argmax(1)).float().mean() >= 0.9  # but for ties


def passes(model: Any, batch: int = 4) -> Counter[tuple[str, str, str]]:
    """What OpenVINO runs: kind, type of the first input, type of the output."""
    graph, options = openvino_graph(model.SerializeToString())
    graph.reshape([batch, *SIZE])
    options["INFERENCE_PRECISION_HINT"] = "f32"
    runtime = openvino_core("this test").compile_model(graph, "CPU", options).get_runtime_model()
    found: Counter[tuple[str, str, str]] = Counter()
    for node in runtime.get_ops():
        kind = node.get_rt_info()["layerType"]
        given = node.get_input_element_type(0).get_type_name() if node.get_input_size() else ""
        kind = kind if isinstance(kind, str) else kind.astype(str)
        found[kind, given, node.get_output_element_type(0).get_type_name()] += 1
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_pools_and_concatenates_codes(exported, bits: int) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    if not exact_kernels():
        pytest.skip("layers of this network run in float on this processor")
    found = passes(exported[1][bits])
    assert found["Pooling", "u8", "u8"] == 2
    assert found["Concatenation", "u8", "u8"] == 1
    assert {key for key in found if key[0] in ("Pooling", "Concatenation")} == {
        ("Pooling", "u8", "u8"),
        ("Concatenation", "u8", "u8"),
    }


class TwoReaders(nn.Module):
    """What is pooled is read in float, too: its codes alone do not do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.last, self.head = (
            layer(3, 8),
            nn.MaxPool2d(2),
            layer(8, 8),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        return self.head((self.last(x) + x).mean((2, 3)))


class Uneven(nn.Module):
    """Average pooling whose last windows are cut off: their number is not to be rounded down."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = layer(3, 8), layer(8, 8), nn.Linear(8, 5)
        self.pool = nn.AvgPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.pool(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize("kind", [TwoReaders, Uneven])
def test_what_cannot_move_stays(kind: type[nn.Module], batch: Tensor) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    torch.manual_seed(1)
    network = quantizable.quantize(trained_like(kind()), (8, 32)).eval()
    network.calibrate([torch.randn(16, *SIZE)])
    model = onnx_model(network, 8, input_size=SIZE)
    got = compile_openvino(model.SerializeToString(), 1, tuple(batch.shape))(batch.numpy())
    assert_equal_but_for_ties(got, network, 8, batch)
    assert passes(model)["Pooling", "f32", "f32"] == 1
