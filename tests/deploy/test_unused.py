"""Layers that evaluation never calls, as the heads of training alone: they block no export."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy.export import export_onnx
from quantizable.deploy.layer_report import layer_report
from quantizable.deploy.lowering import lower
from quantizable.deploy.reference import integer_network
from quantizable.network import QuantizableNetwork
from quantizable.nn.layer_calls import Call, layer_calls
from quantizable.storage.load import load_qz
from quantizable.storage.qz import read_qz, save_qz


class Auxiliary(nn.Module):
    """A head of training alone, as GoogLeNet's and Inception's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.aux = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 3))
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        logits = self.head(self.body(x).relu().mean((2, 3)))
        return (logits, self.aux(x)) if self.training else logits


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 8, 8)


@pytest.fixture
def network(images: Tensor) -> QuantizableNetwork:
    torch.manual_seed(0)
    network = quantizable.quantize(Auxiliary(), [4, 8])
    with pytest.warns(UserWarning, match=r"no data passed through aux.0, aux.3"):
        network.calibrate([images])
    network.info = {"in_chans": 3, "image_size": 8}
    network.set_bits(4)
    return network.eval()


def test_they_block_no_export(network: QuantizableNetwork, images: Tensor, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = network(images)
    lowered = lower(network, 4, images)
    with torch.no_grad():
        torch.testing.assert_close(lowered.model(images), expected)
    torch.testing.assert_close(integer_network(network, 4, images)(images.double()).float(), expected)
    assert set(lowered.weights) == {"stem", "body", "head"}
    report = layer_report(lowered)
    assert report["aux.0"] == report["aux.1"] == report["aux.3"] == "float: evaluation never calls it"
    assert not network.model.aux[0].input_quantizer.initialised  # asking has set nothing
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="the deploy extra is not installed")
    assert export_onnx(network, tmp_path / "network.onnx", 4) == report


def test_a_qz_file_leaves_them_out(network: QuantizableNetwork, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "network.qz"
    save_qz(network, path)
    about, tensors = read_qz(path)
    assert about["unused"] == ["aux.0", "aux.3"]
    assert not [key for key in tensors if "aux.3" in key]
    loaded = load_qz(path, Auxiliary())
    with torch.no_grad():
        for mode in (4, 8):
            with network.at_bits(mode), loaded.at_bits(mode):
                torch.testing.assert_close(loaded(images), network(images))
    with pytest.raises(ValueError, match="does not fit"):
        load_qz(path, nn.Sequential(nn.Conv2d(3, 4, 3)))


class ReadDirectly(Auxiliary):
    """Evaluation reads the weights of the last layer, which it never calls."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        bias = self.aux[3].weight.flatten().sum()
        outputs = super().forward(x)
        return outputs if isinstance(outputs, tuple) else outputs + bias


@pytest.mark.parametrize("model", [Auxiliary, ReadDirectly])
@pytest.mark.parametrize("size", [8, None])
def test_a_qz_file_holds_what_evaluation_may_read(
    model: type[nn.Module], size: int | None, images: Tensor, tmp_path: Path
) -> None:
    """Where the size of an image is not known, calibration alone knows that a layer is never called."""
    torch.manual_seed(0)
    network = quantizable.quantize(model(), [4, 8])
    with pytest.warns(UserWarning, match="no data passed through"):
        network.calibrate([images])
    network.info = {"in_chans": 3, "image_size": size} if size else {}
    save_qz(network.eval(), tmp_path / "network.qz")
    about, tensors = read_qz(tmp_path / "network.qz")
    assert about["unused"] == ["aux.0", "aux.3"]
    kept = "float.aux.3.weight" in tensors
    assert kept is (size is None or model is ReadDirectly)
    loaded = load_qz(tmp_path / "network.qz", model())
    with torch.no_grad():
        for mode in (4, 8):
            with network.at_bits(mode), loaded.at_bits(mode):
                torch.testing.assert_close(loaded(images), network(images))


def test_a_layer_that_is_called_must_be_calibrated(images: Tensor, tmp_path: Path) -> None:
    network = quantizable.quantize(Auxiliary(), [4])
    network.info = {"in_chans": 3, "image_size": 8}
    with pytest.raises(ValueError, match=r"3 quantizers have no step size yet .*calibrate"):
        lower(network, 4, images)
    with pytest.raises(ValueError, match=r"quantizers have no step size yet .*calibrate"):
        save_qz(network, tmp_path / "network.qz")
    with pytest.warns(UserWarning, match="no data passed through"):
        network.calibrate([images])
    network.model.body.input_quantizer.level(4).set_ready(False)
    with pytest.raises(ValueError, match=r"1 quantizers have no step size yet \(body.input_quantizer"):
        save_qz(network, tmp_path / "network.qz")
    assert not (tmp_path / "network.qz").exists()


def test_calls_are_counted_with_their_shapes() -> None:
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.MaxPool2d(2), conv)
    calls = layer_calls(model, {"conv": conv, "never": nn.Linear(1, 1)}, torch.zeros(2, 3, 4, 4))
    large, small = (2, 3, 4, 4), (2, 3, 2, 2)
    assert calls == {"conv": [Call(large, large), Call(small, small)], "never": []}
