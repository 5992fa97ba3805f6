"""Networks that return several tensors: named in the file, and given back in the network's own structure."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import quantizable
from quantizable.deploy import Session, export_onnx
from quantizable.deploy.export import onnx_model
from quantizable.deploy.guard import Guard
from quantizable.deploy.openvino_format import export_openvino
from quantizable.network import QuantizableNetwork
from quantizable.storage.outputs import names_in, only_tensor, restored, structure_of, tensors_in
from quantizable.storage.qz import save_qz

Pair = namedtuple("Pair", ["score", "box"])
A, B, C = (torch.full((2, 1), float(i)) for i in range(3))


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ["logits"]),
        ((A, B), ["output_0", "output_1"]),
        ([A], ["output_0"]),
        ({"out": A, "aux": B}, ["out", "aux"]),
        (OrderedDict(logits=A), ["logits"]),
        (Pair(A, B), ["score", "box"]),
        ((A, [B, C]), ["output_0", "output_1_0", "output_1_1"]),
        ({"boxes": [A, B], 7: (C,)}, ["boxes_0", "boxes_1", "7_0"]),
        ({"a": [A], "a_0": B, "image": C}, ["a_0", "output_a_0", "output_image"]),
    ],
)
def test_names_and_structure(outputs: Any, names: list[str]) -> None:
    structure = structure_of(outputs)
    assert names_in(structure) == names
    again = restored(structure, list(tensors_in(outputs)))
    assert again is outputs or again == outputs


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (None, "returns a NoneType; an export holds a tensor, or tuples"),
        ({"out": A, "aux": None}, "returns a NoneType as aux"),
        ({(1, 2): A}, "returns a dict; an export holds"),
        ([], "returns an empty list"),
    ],
)
def test_anything_else_is_refused(outputs: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        structure_of(outputs)


class Heads(nn.Module):
    """A convolution whose feature map and two heads are returned as a test wants it."""

    def __init__(self, arrange: Callable[..., Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(4, 2)
        self.arrange = arrange

    def forward(self, x: Tensor) -> Any:
        features = self.norm(self.conv(x)).relu()
        pooled = features.mean((2, 3))
        return self.arrange(self.first(pooled), self.second(pooled), features)


def as_tuple(first: Tensor, second: Tensor, features: Tensor) -> Any:
    return first, second


def as_dictionary(first: Tensor, second: Tensor, features: Tensor) -> Any:
    # a name that the graph has inside, a tensor that comes twice, an order that is not the alphabet's
    return {"relu": first, "conv2d": features, "again": [first, (second,)]}


def as_list(first: Tensor, second: Tensor, features: Tensor) -> Any:
    return [first]


def prepared(model: nn.Module, x: Tensor) -> QuantizableNetwork:
    network = quantizable.quantize(model, [4, 8])
    network.calibrate([x])
    network.info = {"in_chans": x.shape[1], "image_size": x.shape[-1]}
    return network.eval()


def check_same(found: Any, expected: Any) -> None:
    """The same containers, and in them the same numbers but for float32's rounding."""
    assert type(found) is type(expected) or isinstance(expected, Tensor)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            check_same(found[key], expected[key])
    else:
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_same(one, other)


@pytest.mark.parametrize("arrange", [as_tuple, as_dictionary, as_list])
def test_a_session_returns_what_the_network_returns(arrange: Callable[..., Any], tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the deploy extra is not installed")
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 8)
    network = prepared(Heads(arrange), x)
    with network.at_bits(4), torch.no_grad():
        expected = network(x)
    export_onnx(network, tmp_path / "network.onnx", 4)
    check_same(Session(tmp_path / "network.onnx", "onnxruntime")(x), expected)
    check_same(Session(tmp_path / "network.onnx", "onnxruntime", batch=4)(x), expected)


def test_so_do_a_qz_file_and_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason="the deploy extra is not installed")
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 8)
    network = prepared(Heads(as_dictionary), x)
    with network.at_bits(4), torch.no_grad():
        expected = network(x)
    export_openvino(network, tmp_path / "network.xml", 4)
    check_same(Session(tmp_path / "network.xml", "openvino")(x), expected)
    save_qz(
        network, tmp_path / "network.qz", architecture={"model": "x", "num_classes": 5, "model_options": {}}
    )
    monkeypatch.setattr("quantizable.storage.load.create_model", lambda *_: Heads(as_dictionary))
    for engine in ("torch", "onnxruntime"):
        session = Session(tmp_path / "network.qz", engine, bits=4)
        check_same(session(x), expected)
    with pytest.raises(ValueError, match="dict of 4 outputs; a guard needs one tensor of logits"):
        Guard(4, 8, 0.5).predict(session, x)
    with pytest.raises(ValueError, match="predict needs one tensor"):
        only_tensor(expected, "predict")


def test_the_feature_maps_of_timm(tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the deploy extra is not installed")
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    network = prepared(timm.create_model("test_resnet", features_only=True, out_indices=(1, 2, 3)), x)
    model = onnx_model(network, 8)
    assert [output.name for output in model.graph.output] == ["output_0", "output_1", "output_2"]
    (tmp_path / "features.onnx").write_bytes(model.SerializeToString())
    with network.at_bits(8), torch.no_grad():
        expected = network(x)
    found = Session(tmp_path / "features.onnx", "onnxruntime")(x)
    assert [part.shape for part in found] == [tuple(part.shape) for part in expected]
    check_same(found, expected)


def test_one_tensor_is_called_logits() -> None:
    pytest.importorskip("onnx", reason="the deploy extra is not installed")
    pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
    network = prepared(Heads(lambda first, second, features: first), torch.randn(4, 3, 8, 8))
    assert [output.name for output in onnx_model(network, 8).graph.output] == ["logits"]
