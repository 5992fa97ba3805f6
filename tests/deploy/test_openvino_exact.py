"""Layers that can saturate, on OpenVINO's own saturating kernels: oneDNN held to AVX2 shows what a processor
without VNNI computes. On another kind of processor the test runs its own kernels, which must be right, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.export import onnx_model
from quantizable.deploy.openvino_exact import codes_can_saturate, highest_code, without_saturation
from quantizable.deploy.processor import VARIABLE
from quantizable.deploy.requirements import openvino_core

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
pytest.importorskip("openvino", reason="openvino is not installed")

# compiles every graph twice, and says which layers run in float and what the engine answers
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


class Branches(nn.Module):
    """Every kind of product side by side on one input: nothing is quantized behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 5, 1)
        self.conv = nn.Conv2d(8, 6, 3, padding=1)
        self.strided = nn.Conv2d(8, 16, 3, stride=2, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.transposed = nn.ConvTranspose2d(8, 4, 3)
        self.transposed_groups = nn.ConvTranspose2d(8, 4, 3, groups=2)
        self.sequence = nn.Conv1d(8, 4, 3)
        self.linear = nn.Linear(6, 7)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        images = [self.first, self.conv, self.strided, self.grouped, self.depthwise, self.transposed]
        found = [layer(x) for layer in [*images, self.transposed_groups]]
        found += [self.sequence(x[:, :, 0]), self.linear(x), self.last(x[:, 0, 0])]
        return torch.cat([one.flatten(1) for one in found], 1)


def branches(signed: bool, bits: int) -> tuple[quantizable.QuantizableNetwork, Tensor]:
    """Calibrated branches whose weights and inputs are mostly of one sign, so that sums of pairs are large."""
    torch.manual_seed(0)
    model = Branches()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.1, 1)
    images = torch.rand(4, 8, 6, 6) - (0.1 if signed else 0.0)
    network = quantizable.quantize(model, [bits]).eval()
    network.calibrate([images])
    return network, images


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], str]:
    """What saturating kernels answer, by graph and ``exact``; what is expected; the log."""
    folder = tmp_path_factory.mktemp("graphs")
    for bits in (8, 7, 4, 2):
        for signed in (False, True):
            network, images = branches(signed, bits)
            stem = folder / f"w{bits}{'signed' if signed else ''}"
            np.save(stem.with_suffix(".npy"), images.numpy())
            stem.with_suffix(".onnx").write_bytes(
                onnx_model(network, bits, input_size=(8, 6, 6)).SerializeToString()
            )
            with torch.no_grad():
                np.save(stem.with_suffix(".expected.npy"), network(images).numpy())
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", VARIABLE: "saturating"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return {path.name.removesuffix(".npy"): np.load(path) for path in folder.glob("*.npy")}, done.stderr


@pytest.mark.parametrize("signed", ["", "signed"])
@pytest.mark.parametrize("bits", [8, 7, 4, 2])
def test_saturating_kernels_give_the_fake_quant_answers(answers, bits: int, signed: str) -> None:
    found, log = answers
    expected = found[f"w{bits}{signed}.expected"]
    np.testing.assert_allclose(found[f"w{bits}{signed}.True"], expected, atol=2e-6 * np.abs(expected).max())
    assert "no exact integer kernels" in log


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="kernels of x86 saturate")
def test_without_the_precaution_the_same_kernels_are_wrong(answers) -> None:
    found, _ = answers
    expected = found["w8.expected"]
    assert np.abs(found["w8.False"] - expected).max() > 0.05 * np.abs(expected).max()


def read(network, bits, **options: str):  # noqa: ANN201
    graph = onnx_model(network, bits, input_size=(8, 6, 6), **options).SerializeToString()
    return openvino_core("this test").read_model(graph)



def test_only_layers_that_can_saturate_change() -> None:
    network, images = branches(False, 4)
    graph = read(network, 4)
    assert without_saturation(graph) == ["first", "last"]
    assert without_saturation(graph) == []  # there is nothing left to change
    compiled = openvino_core("this test").compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(compiled(images.numpy())[0], expected, atol=2e-6 * np.abs(expected).max())
