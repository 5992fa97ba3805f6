"""Networks of several inputs, of ids and masks, and of sound, as files: engines answer as fake quant does."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantizable import QuantizableNetwork, quantize
from quantizable.deploy import Session, describe_inputs, export_onnx, save_qz
from quantizable.deploy.openvino_format import export_openvino
from quantizable.measure.cost import layer_costs
from quantizable.storage.golden import Golden, golden
from quantizable.storage.outputs import tensors_in
from quantizable.storage.signature import Input

pytest.importorskip("onnxscript", reason="the deploy extra is not installed")
ENGINES = [e for e in ("onnxruntime", "openvino") if importlib.util.find_spec(e)]


class Tagger(nn.Module):
    """Words ``[N, 6]``, a mask of the padded ones and features ``[N, 6, 3]`` to tags and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.features = nn.Embedding(40, 8), nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tags, self.head = nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, words: Tensor, padded: Tensor, features: Tensor) -> dict[str, Tensor]:
        x = self.table(words) + self.features(features)
        x = x + self.attention(x, x, x, key_padding_mask=padded, need_weights=False)[0]
        seen = (~padded)[..., None].to(x.dtype)
        return {"tags": self.tags(x), "classes": self.head((x * seen).sum(1) / seen.sum(1))}


def tagged(count: int = 12) -> dict[str, Tensor]:
    padded = torch.arange(6) >= torch.randint(1, 7, (count, 1))
    return {
        "words": torch.randint(40, (count, 6)), "padded": padded, "features": torch.randn(count, 6, 3),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tagger() -> tuple[QuantizableNetwork, dict[str, Tensor]]:
    torch.manual_seed(0)
    batch = tagged()
    network = quantize(Tagger().eval(), [4, 8, 32], first_last="mode").eval()
    network.calibrate([batch])
    network.info |= describe_inputs(network, batch)
    return network, batch


def outputs(network: QuantizableNetwork, bits: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
    with network.at_bits(bits), torch.no_grad():
        return [part.numpy() for part in tensors_in(network(**batch)) if part.is_floating_point()]


def assert_same(found: Any, expected: list[np.ndarray]) -> None:
    """Equal but for codes at a tie, which an engine that rounds a sum otherwise may move, in few inputs."""
    for one, other in zip(tensors_in(found), expected, strict=True):
        assert one.shape == other.shape
        far = np.abs(one - other).reshape(len(one), -1).max(1) > 1e-3 * np.abs(other).max()
        assert far.mean() <= 0.1
        assert (one.argmax(-1) == other.argmax(-1))[~far].all()


def test_what_a_network_takes_is_read_off_a_batch(tagger) -> None:
    network, _ = tagger
    assert network.info["inputs"] == {
        "words": {"size": [6], "type": "int64", "ids": 40},
        "padded": {"size": [6], "type": "bool", "ids": 0},
        "features": {"size": [6, 3], "type": "float32", "ids": 0},
    }
    lookup = quantize(nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 2)), [4, 32])
    assert describe_inputs(lookup, torch.zeros(2, 7, dtype=torch.long)) == {
        "input_size": [7],
        "input_ids": 30,
    }
    plain = quantize(nn.Sequential(nn.Linear(4, 2)), [4, 32])
    assert describe_inputs(plain, torch.zeros(2, 4)) == {"input_size": [4]}
    batch = tagged()
    for wrong, why in (
        ({**batch, "padded": batch["padded"][:3]}, r"the inputs hold batches of \[3, 12\]"),
        ({**batch, "features": 1.0}, "input features is a float"),
    ):
        with pytest.raises(ValueError, match=why):
            describe_inputs(network, wrong)


def test_masks_hide_something_and_never_all() -> None:
    for steps in (2, 3, 9):
        for share in np.linspace(0, 1, 7):
            mask = Input((steps,), "int64", 2).mask(share)
            assert mask[0] == 1
            assert mask[-1] == 0
            assert (np.diff(mask) <= 0).all()
    assert Input((), "bool").blank(3).tolist() == [True] * 3


@pytest.mark.parametrize("engine", ENGINES)
def test_files_are_verified_and_run_by_name_by_mapping_and_in_order(
    tagger, engine: str, tmp_path: Path
) -> None:
    network, batch = tagger
    expected = outputs(network, 4, batch)
    report = export_onnx(network, tmp_path / "tagger.onnx", 4)
    assert report["attention"] == "integer w4a4"
    session = Session(tmp_path / "tagger.onnx", engine)
    assert not session.problem
    assert list(session.signature) == list(batch)
    found = session(**batch)
    assert list(found) == ["tags", "classes"]
    assert_same(found, expected)
    assert_same(session({name: value.numpy() for name, value in batch.items()}), expected)
    assert_same(session(*batch.values()), expected)
    fixed = Session(tmp_path / "tagger.onnx", engine, batch=5)
    assert_same(fixed(**batch), expected)


def test_other_files_and_the_costs_know_the_inputs_too(tagger, tmp_path: Path) -> None:
    network, batch = tagger
    save_qz(network, tmp_path / "tagger.qz", [4, 8])
    session = Session(tmp_path / "tagger.qz", "torch", 4, model=Tagger())
    assert not session.problem
    for one, other in zip(tensors_in(session(**batch)), outputs(network, 4, batch), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    costs = {cost.layer: cost.macs for cost in layer_costs(network, modes=[4])}
    assert costs["features"] == 6 * 3 * 8
    assert costs["attention"] == 6 * 8 * 24
    if "openvino" in ENGINES:
        export_openvino(network, tmp_path / "tagger.xml", 8)
        session = Session(tmp_path / "tagger.xml", "openvino")
        assert not session.problem
        assert_same(session(**batch), outputs(network, 8, batch))


def test_samples_hold_every_input_and_are_read_again(tagger) -> None:
    network, _ = tagger
    samples = golden(network, {"4": 4})
    again = Golden.read(samples.plain())
    assert again is not None
    drawn: Any = again.images("4")
    assert {name: value.dtype.name for name, value in drawn.items()} == {
        "words": "int64", "padded": "bool", "features": "float32",
    }  # fmt: skip
    assert 0 <= drawn["words"].min() < drawn["words"].max() < 40
    answers = [part.numpy() for part in tensors_in(network_at(network, 4, drawn))]
    assert again.check("4", lambda _: answers) is None
    assert "differ beyond rounding" in again.check("4", lambda _: [part + 1 for part in answers])


def network_at(network: QuantizableNetwork, bits: int, arrays: dict[str, np.ndarray]) -> Any:
    with network.at_bits(bits), torch.no_grad():
        return network(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda b: b.pop("padded"),
            "the network takes words, padded, features; the call gives words, features",
        ),
        (lambda b: b.update(more=b["words"]), "the call gives words, padded, features, more"),
        (lambda b: b.update(words=b["words"].float()), "words are float32; give ids, integers from 0 to 39"),
        (lambda b: b.update(words=b["words"] + 40), r"there are those below 40 \(words\)"),
        (lambda b: b.update(padded=b["padded"].long()), "padded are int64; give booleans"),
        (lambda b: b.update(features=b["features"][:, 1:]), r"features of shape \[12, 5, 3\] do not fit"),
        (
            lambda b: b.update(features=b["features"][1:]),
            r"unequal sizes \(words 12, padded 12, features 11\)",
        ),
    ],
)
def test_other_inputs_are_refused_in_one_line(tagger, tmp_path: Path, change: Callable, why: str) -> None:
    network, batch = tagger
    save_qz(network, tmp_path / "tagger.qz", [8])
    session = Session(tmp_path / "tagger.qz", "torch", model=Tagger(), warmup=0, verify=False)
    wrong = dict(batch)
    change(wrong)
    with pytest.raises(ValueError, match=why) as error:
        session(**wrong)
    assert "\n" not in str(error.value)


class Sound(nn.Module):
    """One-dimensional convolutions on ``[N, 1, 400]``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 8, 16, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 8, 4), nn.BatchNorm1d(8),
            nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_sound_runs_on_integers(tmp_path: Path) -> None:
    x = torch.randn(24, 1, 400)
    network = quantize(Sound().eval(), [4, 32], first_last="mode").eval()
    network.calibrate([x])
    report = export_onnx(network, tmp_path / "sound.onnx", 4, input_size=(1, 400))
    assert [how for layer, how in report.items() if layer in network.layers()] == ["integer w4a4"] * 3
    for engine in ENGINES:
        session = Session(tmp_path / "sound.onnx", engine)
        assert not session.problem
        with network.at_bits(4), torch.no_grad():
            assert_same(session(x), [network(x).numpy()])


CLASSES = {"num_labels": 3}
COMMON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
MODELS: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "BERT": (
        "BertForSequenceClassification", {**COMMON, "vocab_size": 50},
        lambda: {
            "input_ids": torch.randint(50, (16, 6)),
            "attention_mask": (torch.arange(6) < torch.randint(1, 7, (16, 1))).long(),
        },
    ),
    "wav2vec 2.0": (
        "Wav2Vec2ForSequenceClassification",
        {
            **COMMON, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "classifier_proj_size": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        lambda: {"input_values": torch.randn(16, 400)},
    ),
}  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed (an optional test)",
)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    kind, options, make = MODELS[name]
    config = getattr(transformers, kind.replace("ForSequenceClassification", "Config"))(**options, **CLASSES)
    batch = make()
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network = quantize(model, [4, 32], attention=True).eval()
    network.calibrate([batch])
    network.info |= describe_inputs(network, batch)
    report = export_onnx(network, tmp_path / "model.onnx", 4)
    assert sum(how.startswith("integer") for how in report.values()) >= 6
    for engine in ENGINES:
        session = Session(tmp_path / "model.onnx", engine)
        assert not session.problem
        assert_same(session(**batch), outputs(network, 4, batch))
