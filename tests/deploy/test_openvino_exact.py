"""Layers that can saturate, on OpenVINO's own saturating kernels.

oneDNN held to AVX2 computes what it does on a processor without VNNI. On ARM the tests run its own kernels.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import Attention, Conv2dSame
from torch import Tensor, nn

import quantizable
from quantizable import quantize
from quantizable.deploy import export_onnx
from quantizable.deploy.engines import compile_openvino
from quantizable.deploy.export import onnx_model
from quantizable.deploy.layer_report import WITHOUT_VNNI
from quantizable.deploy.openvino_exact import codes_can_saturate, highest_code, without_saturation
from quantizable.deploy.openvino_format import export_openvino
from quantizable.deploy.processor import VARIABLE
from quantizable.deploy.requirements import openvino_core
from quantizable.network import QuantizableNetwork

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

# compiles every graph twice; logs which layers run in float, and saves the answers
SCRIPT = """
import json, logging, pathlib, sys
import numpy as np
from quantizable.deploy.engines import compile_openvino
logging.basicConfig(stream=sys.stderr, format="%(name)s %(message)s")
logging.getLogger("quantizable").setLevel(logging.INFO)
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.onnx")):
    images = np.load(path.with_suffix(".npy"))
    for exact in (True, False):
        answers = compile_openvino(path.read_bytes(), 1, None, exact)(images)
        np.save(path.with_suffix(f".{exact}.npy"), answers)
"""


class Products(nn.Module):
    """Every kind of product side by side on one input: nothing is quantized behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 3, padding=1)
        self.strided = Conv2dSame(8, 16, 3, stride=2, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 4, 3)
        self.transposed_groups = nn.ConvTranspose2d(8, 4, 3, groups=2)
        self.sequence = nn.Conv1d(8, 4, 3)
        self.linear = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        images = [self.conv, self.strided, self.grouped, self.depthwise, self.transposed]
        found = [layer(x) for layer in [*images, self.transposed_groups]]
        found += [self.sequence(x[:, :, 0]), self.linear(x)]
        return torch.cat([one.flatten(1) for one in found], 1)


class Branches(nn.Module):
    """The products on codes without and with a sign; first and last layer have 8 bits in every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unsigned, self.signed = nn.Conv2d(8, 5, 1), Products(), Products()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        ends = [self.first(x).flatten(1), self.last(x[:, 0, 0])]
        return torch.cat([*ends, self.unsigned(x), self.signed(x - 0.1)], 1)


class Attends(nn.Module):
    """Products of codes with codes, behind and before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(6, 16), Attention(16, 2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(self.first(x.flatten(1, 2))).mean(1))


def branches(bits: int) -> tuple[QuantizableNetwork, Tensor]:
    return calibrated(Branches(), bits)


def calibrated(model: nn.Module, bits: int) -> tuple[QuantizableNetwork, Tensor]:
    """With weights and inputs mostly of one sign, so that sums of pairs are large."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.1, 1)
    images = torch.rand(4, 8, 6, 6)
    network = quantizable.quantize(model, [bits], attention=isinstance(model, Attends)).eval()
    network.calibrate([images])
    return network, images


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], str]:
    """What saturating kernels answer, by graph and ``exact``; what is expected; the log."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, bits, model in (("8", 8, Branches()), ("4", 4, Branches()), ("attention", 8, Attends())):
        network, images = calibrated(model, bits)
        np.save(folder / f"{name}.npy", images.numpy())
        export_onnx(network, folder / f"{name}.onnx", bits, input_size=(8, 6, 6))
        with torch.no_grad():
            np.save(folder / f"{name}.expected.npy", network(images).numpy())
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", VARIABLE: "saturating"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return {path.name.removesuffix(".npy"): np.load(path) for path in folder.glob("*.npy")}, done.stderr


@pytest.mark.parametrize("name", ["8", "4", "attention"])
def test_saturating_kernels_give_the_fake_quant_answers(answers, name: str) -> None:
    found, log = answers
    expected = found[f"{name}.expected"]
    np.testing.assert_allclose(found[f"{name}.True"], expected, atol=2e-6 * np.abs(expected).max())
    assert "integer kernels taken as saturating on" in log
    assert "18 layers" in log
    assert "all layers run in float" in log
    assert "2 layers, whose products could leave int16, run in float (first, last)" in log


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels of x86 saturate")
def test_without_the_precaution_the_same_kernels_are_wrong(answers) -> None:
    found, _ = answers
    for name in ("8", "attention"):
        expected = found[f"{name}.expected"]
        assert np.abs(found[f"{name}.False"] - expected).max() > 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(("ending", "storage"), [("onnx", "int4"), ("xml", "int8")])
def test_only_layers_that_can_saturate_change(tmp_path: Path, ending: str, storage: str) -> None:
    network, images = branches(4)
    export = export_onnx if ending == "onnx" else export_openvino
    report = export(network, tmp_path / f"net.{ending}", 4, input_size=(8, 6, 6), weight_storage=storage)
    core = openvino_core("this test")
    graph = core.read_model(tmp_path / f"net.{ending}")
    changed = without_saturation(graph)
    assert changed == ["first", "last"]
    assert changed == [layer for layer, how in report.items() if how.endswith(WITHOUT_VNNI)]
    assert without_saturation(graph) == []  # nothing is left to change
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(compiled(images.numpy())[0], expected, atol=2e-6 * np.abs(expected).max())


def test_the_upper_bound_of_a_clip_counts_and_a_float_input_has_none(tmp_path: Path) -> None:
    ops = openvino.opset13
    x = ops.parameter([1, 4], np.float32)
    grid = ops.fake_quantize(x, *(np.float32(v) for v in (0, 255, 0, 255)), 256)
    codes = ops.convert(grid, "u8")
    assert highest_code(x.output(0)) is None
    assert highest_code(ops.convert(codes, "f32").output(0)) == 255
    low, high = ops.constant(np.uint8(3)), ops.constant(np.uint8(15))
    for clipped in (ops.minimum(ops.maximum(codes, low), high), ops.maximum(ops.minimum(codes, high), low)):
        padded = ops.relu(ops.reshape(ops.convert(clipped, "f32"), [2, 2], False))
        assert highest_code(padded.output(0)) == 15
    weights = ops.constant(np.ones((4, 2), np.float32))
    after = ops.matmul(ops.convert(codes, "f32"), weights, False, False)
    assert highest_code(ops.relu(after).output(0)) is None  # what comes out of a product is no code


def test_codes_times_codes_are_seen() -> None:
    ops = openvino.opset13
    for highest, expected in ((127, False), (255, True)):  # 2 x 127 x 127 = 32 258
        codes = []
        for _ in range(2):
            x = ops.parameter([2, 2], np.float32)
            grid = ops.fake_quantize(x, *(np.float32(v) for v in (0, 255, 0, 255)), 256)
            clipped = ops.minimum(ops.convert(grid, "u8"), ops.constant(np.uint8(highest)))
            codes.append((x, ops.convert(clipped, "f32")))
        product = ops.matmul(codes[0][1], codes[1][1], False, True)
        graph = openvino.Model([product.output(0)], [x for x, _ in codes])
        assert codes_can_saturate(graph) is expected


class Reduced(nn.Module):
    """A layer without bias on tokens ``[N, 9, 32]``, reduced over the tokens, and a classifier."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.reduce = reduce
        self.tokens, self.head = nn.Linear(32, 64, bias=False), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        if self.reduce:
            x = getattr(x, self.reduce)(1)
        return self.head(x)


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize(
    ("reduce", "mode"), [("mean", 8), ("amax", 4), ("sum", 8), ("", "w4a32"), ("mean", "w8a32")]
)
def test_reductions_and_float_inputs_are_computed_as_written(reduce: str, mode: Any, integers: bool) -> None:
    """OpenVINO lost the scales behind a mean, and rounded float inputs of integer weights to 8 bits."""
    x = torch.randn(20, 9, 32)
    network = quantize(Reduced(reduce).eval(), [mode, 32], first_last="mode").eval()
    network.calibrate([x])
    with network.at_bits(mode), torch.no_grad():
        expected = network(x).numpy()
    model = onnx_model(network, mode, input_size=(9, 32)).SerializeToString()
    off = np.abs(compile_openvino(model, 1, None, integers=integers)(x.numpy()) - expected)
    assert np.median(off.reshape(20, -1).max(1)) < 1e-5 * np.abs(expected).max()  # but for a code at a tie


class Residual(nn.Module):
    """Two convolutions without bias beside a shortcut, behind a third one, ``[N, 3, 8, 8]`` to ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 24, 1, bias=False), nn.Conv2d(24, 48, 1, bias=False)
        self.narrow, self.norm = nn.Conv2d(48, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.narrow(self.wide(x).relu()))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("shape", [None, (16, 3, 8, 8)])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_residual_addition_of_layers_without_bias_keeps_both_operands(
    bits: int, shape: tuple[int, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With a free batch OpenVINO's integer passes gave the shortcut alone (MobileNets with random norms)."""
    x = torch.randn(16, 3, 8, 8)
    network = quantize(Residual().eval(), [bits, 32]).eval()
    network.calibrate([x])
    with network.at_bits(bits), torch.no_grad():
        expected = network(x).numpy()
    with caplog.at_level("INFO"):  # as in a training
        model = onnx_model(network, bits, input_size=(3, 8, 8)).SerializeToString()
    assert not caplog.records, "the exporter tells each of its steps"
    off = np.abs(compile_openvino(model, 1, shape)(x.numpy()) - expected)
    assert np.median(off.max(1)) < 1e-5 * np.abs(expected).max()  # but for a code at a tie
