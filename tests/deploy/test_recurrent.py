"""Recurrent networks as ONNX files: both engines predict what fake quantization does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantizable import QuantizableNetwork, quantize
from quantizable.deploy import Session, describe_inputs
from quantizable.deploy.engines import compile_onnxruntime, compile_openvino
from quantizable.deploy.export import METADATA, export_onnx, onnx_model
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.storage.load import load
from quantizable.storage.qz import save_qz

SIZE = (2, 5)  # steps, features


class Sequence(nn.Module):
    """A recurrent layer and a classifier of its last output; ``read`` calls the layer."""

    def __init__(self, layer: nn.Module, read: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.rnn, self.fc = layer, nn.Linear(12 if getattr(layer, "bidirectional", False) else 6, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(self.rnn, x))


def last(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)[0][:, -1]


def time_inside(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.transpose(0, 1))[0][-1]


def time_first(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x)[0]


def packed(layer: nn.Module, x: Tensor) -> Tensor:
    lengths = torch.full((x.size(0),), SIZE[0])
    return layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0][0]


def by_cell(cell: nn.Module, x: Tensor) -> Tensor:
    state = cell(x[:, 0])
    for step in x.unbind(1)[1:]:
        state = cell(step, state)
    return state[0]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Sequence(nn.LSTM(5, 6, batch_first=True), last),
    "gru": lambda: Sequence(nn.GRU(5, 6, batch_first=True, bidirectional=True), last),
    "time inside": lambda: Sequence(nn.RNN(5, 6), time_inside),
    "cell": lambda: Sequence(nn.LSTMCell(5, 6), by_cell),
}


def network(model: nn.Module, x: Tensor, quantizer: str = "lsq") -> QuantizableNetwork:
    net = quantize(model, [3, "w4a8", 8, 32], quantizer).eval()
    net.calibrate([x])
    return net


@pytest.mark.parametrize(
    ("name", "mode", "quantizer"),
    [("lstm", 3, "lsq"), ("gru", 8, "lsq_plus"), ("time inside", 32, "lsq"), ("cell", "w4a8", "pact")],
)
def test_both_engines_compute_what_fake_quantization_does(name: str, mode: Any, quantizer: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, *SIZE)
    net = network(NETWORKS[name](), x, quantizer)
    net.set_bits(mode)
    with torch.no_grad():
        expected = net(x).numpy()
    model = onnx_model(net, mode, input_size=SIZE)
    for compiled in (compile_onnxruntime, compile_openvino):
        found = compiled(model.SerializeToString(), 1, None)(x.numpy())
        # a code at a tie may turn where an engine rounds a sum otherwise: of few inputs
        far = np.abs(found - expected).max(1) > 1e-4
        assert far.mean() <= 0.05
        assert (found.argmax(1) == expected.argmax(1))[~far].all()
    report = json.loads({p.key: p.value for p in model.metadata_props}[METADATA])["layers"]
    product, how = {
        "lstm": ("hh_l0", "integer w3a3"),
        "gru": ("hh_l0_reverse", "float: the zero point of its input is not an integer"),
        "time inside": ("hh_l0", "float: mode 32"),
        "cell": ("hh", "integer w4a8"),
    }[name]
    assert report[f"rnn.{product}"].startswith(how)
    assert report["rnn"].startswith("float: gates")


class Words(nn.Module):
    """Ids of words to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.fc = (
            nn.Embedding(50, 5),
            nn.GRU(5, 6, batch_first=True),
            nn.Linear(6, 3),
        )

    def forward(self, words: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embedding(words))[0][:, -1])


def test_files_of_a_network_that_reads_words_run_and_are_verified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    words = torch.randint(50, (20, 2))
    net = quantize(Words(), [4, 32], embedding=True).eval()
    net.calibrate([words])
    net.info = {"input_size": [2], "input_ids": 50}
    net.set_bits(4)
    with torch.no_grad():
        expected = net(words)
    export_onnx(net, tmp_path / "words.onnx", 4)
    save_qz(net, tmp_path / "words.qz", [4])
    assert load(tmp_path / "words.qz", Words()).info == net.info
    for engine in ("onnxruntime", "openvino"):
        session = Session(tmp_path / "words.onnx", engine, batch=16)
        assert not session.problem
        far = np.abs(session(words) - expected.numpy()).max(1) > 1e-4
        assert far.mean() <= 0.05
    assert "not verified" not in caplog.text
    for wrong, why in (
        (words.float(), "inputs are float32; give ids, integers from 0 to 49"),
        (words.new_full((1, 2), 50), "ids reach from 50 to 50; there are those below 50"),
        (words[:, :1], r"inputs of shape \[20, 1\] do not fit; the network takes \[N, 2\]"),
    ):
        with pytest.raises(ValueError, match=why):
            session(wrong)


@pytest.mark.parametrize("read", [time_first, packed])
def test_what_cannot_be_exported_is_refused_in_one_line(read: Callable[[nn.Module, Tensor], Tensor]) -> None:
    x = torch.randn(4, *SIZE)
    net = network(Sequence(nn.LSTM(5, 6), read), x)
    with pytest.raises(
        ValueError, match="packed sequences, and for inputs whose first axis is time"
    ) as error:
        onnx_model(net, 3, input_size=SIZE)
    assert "\n" not in str(error.value)


def test_costs_of_the_products_are_those_of_the_layer() -> None:
    model = Sequence(nn.LSTM(5, 6, batch_first=True), last)
    costs = layer_costs(network(model, torch.randn(4, *SIZE)), SIZE, [3])  # type: ignore[arg-type]
    by_name = {cost.layer: cost for cost in costs}
    assert by_name["rnn.ih_l0"].macs == 2 * 24 * 5
    assert by_name["rnn.hh_l0"].macs == 2 * 24 * 6
    assert by_name["rnn.hh_l0"].bops == 2 * 24 * 6 * 9
    assert by_name["rnn.hh_l0"].parameters == 24 * 6 + 24
    assert by_name["rnn.hh_l0"].weight_bytes == 24 * 6 * 3 / 8 + 4 * 24 + 4 * 24  # and 24 scales
    total = mode_costs(network(model, torch.randn(4, *SIZE)), costs)[0]
    assert total.parameters == sum(p.numel() for p in model.parameters())
    assert total.other_bytes == 0


class Tagger(nn.Module):
    """An answer at every step, straight from the states."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def test_what_integer_passes_cannot_compile_runs_without_them(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8)
    network = quantize(Tagger(), [4, 32]).eval()
    network.calibrate([x])
    network.info |= describe_inputs(network, x)
    export_onnx(network, tmp_path / "tagger.onnx", 4)
    found = Session(tmp_path / "tagger.onnx", engine="openvino")(x)
    with network.at_bits(4), torch.no_grad():
        np.testing.assert_allclose(found, network(x).numpy(), atol=1e-5)
