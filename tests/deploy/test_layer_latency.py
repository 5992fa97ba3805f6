"""The table of layer latencies: whole, of the network it was asked about, and what a search takes."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import quantizable
from quantizable.cli import main
from quantizable.deploy import layer_latency
from quantizable.deploy.layer_latency import layer_latencies
from quantizable.search import Space, latency_cost
from tests.deploy.reuse import TwoResolutions

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
pytest.importorskip("onnxscript", reason="the deploy extra is not installed")


@pytest.fixture(scope="module")
def network() -> quantizable.QuantizableNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    network = quantizable.quantize(model, [4, 8, 32]).eval()
    network.calibrate([torch.randn(4, 3, 8, 8)])
    return network


def test_every_layer_in_every_pair_of_widths_and_like_layers_once(
    network: quantizable.QuantizableNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def timed(runs: dict, repeats: int) -> dict:
        for run in runs.values():
            run()  # they do run
        asked.append((len(runs), repeats))
        return {key: float(i) for i, key in enumerate(runs)}

    monkeypatch.setattr(layer_latency, "interleaved", timed)
    table = layer_latencies(network, (3, 8, 8), "onnxruntime", repeats=3)
    assert asked == [(1 + 4 + 1, 3)]  # first, two alike in 2 x 2 widths, last
    assert {name: set(row) for name, row in table.items()} == {
        "0": {"8"}, "2": {"4", "w4a8", "w8a4", "8"}, "4": {"4", "w4a8", "w8a4", "8"}, "8": {"8"},
    }  # fmt: skip
    assert table["2"] == table["4"]
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(table))
    cost, space = latency_cost(path, network), Space.of(network)
    total = sum(table[name][mode] for name, mode in (("0", "8"), ("2", "4"), ("4", "4"), ("8", "8")))
    assert cost.total(space.layer_modes(space.lowest)) == total
    assert network.bits == 32


def test_the_command_measures_milliseconds(
    network: quantizable.QuantizableNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.info = {"in_chans": 3, "image_size": 8}
    monkeypatch.setattr("quantizable.deploy.command_cost.load", lambda path: network)
    monkeypatch.setattr("quantizable.deploy.command_cost.measure", lambda *_: {})  # of the whole network
    monkeypatch.setattr("quantizable.measure.latency.PAUSE", 0.0)
    torch.save({"quantizable": {}}, tmp_path / "model.ckpt")  # looked at before anything is loaded
    words = ["cost", str(tmp_path / "model.ckpt"), "--engine", "onnxruntime", "--threads", "1"]
    assert main([*words, "--layer-latency", str(tmp_path / "latency.json")]) == 0
    table = json.loads((tmp_path / "latency.json").read_text())
    assert all(0 < ms < 1000 for row in table.values() for ms in row.values())


def test_bad_input_is_refused(
    network: quantizable.QuantizableNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="choose from onnxruntime, openvino"):
        layer_latencies(network, (3, 8, 8), "torch")
    with pytest.raises(ValueError, match="threads is 0"):
        layer_latencies(network, (3, 8, 8), "onnxruntime", threads=0)
    assert main(["cost", "model.qz", "--layer-latency", str(tmp_path / "latency.json")]) == 2
    assert "one engine" in capsys.readouterr().err


def test_a_layer_takes_the_time_of_all_its_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_latency, "_compiled", lambda *_: print)
    monkeypatch.setattr(layer_latency, "interleaved", lambda runs, _: dict.fromkeys(runs, 1.5))
    network = quantizable.quantize(TwoResolutions(), [8])
    table = layer_latencies(network, (3, 8, 8), "onnxruntime")
    assert table == {"conv": {"8": 3.0}, "second": {"8": 0}, "head": {"8": 1.5}}
