"""Predictions of exported networks that read no images against fake quantization, with random weights.

    python benchmarks/deploy_sequences.py --output sequences.json
    pip install transformers    # adds BERT, GPT-2 and wav2vec 2.0

Exported by ``export_onnx`` and run by ``Session``, which verifies each file by its golden samples. A
prediction is the largest output of an input; ``noise`` as in ``deploy_networks.py``.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantizable import quantize
from quantizable.deploy import Session, describe_inputs, export_onnx
from quantizable.deploy.processor import processor_name
from quantizable.nn.network_inputs import network_inputs
from quantizable.storage.outputs import tensors_in
from quantizable.storage.rounding_noise import rounding_noise

COUNT, STEPS, WORDS, CLASSES = 256, 12, 200, 10
ENGINES = ("onnxruntime", "openvino")
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


class Words(nn.Module):
    """Ids of words through a recurrent layer to logits."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(WORDS, 32), layer(32, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(words))[0].mean(1))


def sound() -> nn.Module:
    """One-dimensional convolutions on ``[N, 1, 400]``."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((1, 16, 16), (16, 32, 8), (32, 64, 4)):
        layers += [nn.Conv1d(inputs, outputs, kernel, kernel // 4), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def words() -> Tensor:
    return torch.randint(WORDS, (COUNT, STEPS))


def masked() -> dict[str, Tensor]:
    mask = torch.arange(STEPS) < torch.randint(2, STEPS + 1, (COUNT, 1))
    return {"input_ids": torch.randint(3, WORDS, (COUNT, STEPS)), "attention_mask": mask.long()}


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Any]]]:
    """Name, float network, and its inputs."""
    yield "LSTM, both directions", lambda: Words(nn.LSTM), words
    yield "GRU, both directions", lambda: Words(nn.GRU), words
    yield "1-D convolutions", sound, lambda: torch.randn(COUNT, 1, 400)
    if importlib.util.find_spec("transformers"):
        import transformers as hf

        labels = {"num_labels": CLASSES, "pad_token_id": 0}
        bert = hf.BertConfig(**SMALL, **labels, vocab_size=WORDS)
        yield "BERT", lambda: hf.BertForSequenceClassification(bert), masked
        gpt2 = hf.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, vocab_size=WORDS, n_positions=STEPS, use_cache=False, **labels
        )
        yield "GPT-2", lambda: hf.GPT2Model(gpt2), masked
        audio = hf.Wav2Vec2Config(
            **SMALL, **labels, conv_dim=[32, 32], conv_stride=[5, 2], conv_kernel=[10, 3], vocab_size=40,
            num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
            classifier_proj_size=32,
        )  # fmt: skip
        yield (
            "wav2vec 2.0",
            lambda: hf.Wav2Vec2Model(audio),
            lambda: {"input_values": torch.randn(COUNT, 400)},
        )


def answers(found: Any) -> np.ndarray:
    """Of each input the largest of its first outputs, ``[N]``, or of each of its tokens, ``[N, T]``."""
    return np.asarray(next(iter(tensors_in(found)))).argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="8,4,2")
    parser.add_argument("--only", default="*", help="shell pattern of names")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name, make, inputs in networks():
        if not fnmatch.fnmatchcase(name, args.only):
            continue
        torch.manual_seed(0)
        batch = inputs()
        bits = [int(word) for word in args.bits.split(",")]
        network = quantize(make().eval(), bits, attention=True).eval()
        run = network_inputs(network.model, batch)
        network.calibrate([batch])
        if any(isinstance(part, nn.BatchNorm1d) for part in network.modules()):
            network.reestimate_norms([batch])  # so that predictions spread over the classes
        network.info |= describe_inputs(network, batch)
        for mode in bits:
            with network.at_bits(mode), torch.inference_mode():
                expected = answers(run(network))
                with rounding_noise(network.model):
                    noisy = answers(run(network))
            row = {"network": name, "bits": mode, "predictions": expected.size,
                   "classes": len(np.unique(expected)), "noise": int((noisy != expected).sum())}  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                export_onnx(network, Path(folder) / "one.onnx", mode)
                for engine in ENGINES:
                    session = Session(Path(folder) / "one.onnx", engine)
                    row[engine] = int((answers(session(*run.args, **run.kwargs)) != expected).sum())
            print(row, flush=True)
            rows.append(row)
    if args.output:
        about = {"processor": processor_name(), "results": rows}
        args.output.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
