"""Train an LSTM in all modes and run it on an engine: it reads handwritten digits row by row.

    python examples/recurrent.py

Products of the input and of the hidden state are quantized, each with step sizes of its own; the gates
between them stay in float. The data are scikit-learn's digits, eight rows of eight pixels each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import quantizable
from quantizable.deploy import Session, describe_inputs, export_onnx


class RowByRow(nn.Module):
    """A plain float network, rows ``[B, 8, 8]`` to logits ``[B, 10]``; no word of bits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.lstm(rows)[0][:, -1])


class Reader(quantizable.MultiModeModule):
    """Cross-entropy, and the accuracy of each mode."""

    def loss(self, output: Tensor, batch: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(output, batch[1])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        for mode, output in self.outputs_by_mode(batch):
            self.log(f"val/top1/{mode.name}", (output.argmax(1) == batch[1]).float().mean())


def agreement(network: quantizable.QuantizableNetwork, rows: Tensor, folder: Path, engine: str) -> float:
    """Share of the predictions of mode 4 that an engine shares with PyTorch."""
    network.info |= describe_inputs(network, rows)
    export_onnx(network, folder / "reader.onnx", bits=4)
    session = Session(folder / "reader.onnx", engine)  # checked here against golden samples
    with network.eval().at_bits(4), torch.no_grad():
        expected = network(rows).argmax(1)
    return float((torch.from_numpy(session(rows)).argmax(1) == expected).float().mean())


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train; print, and return by mode, the accuracy on 360 digits, and an engine's agreement at 4 bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--engine", default="onnxruntime")
    args = parser.parse_args(argv)

    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    rows, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    network = quantizable.quantize(RowByRow(), bits=[2, 4, 8, 32])
    module = Reader(
        network, "quantizable", {"name": "adamw", "lr": 1e-2, "weight_decay": 1e-4}, clip_norm=1.0
    )
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    train = DataLoader(TensorDataset(rows[:1437], labels[:1437]), batch_size=32, shuffle=True)
    val = DataLoader(TensorDataset(rows[1437:], labels[1437:]), batch_size=360)
    trainer.fit(module, train, val)
    found = {mode.name: float(trainer.callback_metrics[f"val/top1/{mode.name}"]) for mode in module.modes}
    for name, value in found.items():
        print(f"{name:>2} bits: {value:.1%}")
    with tempfile.TemporaryDirectory() as folder:
        found[args.engine] = agreement(network, rows[1437:], Path(folder), args.engine)
    print(f"{args.engine} at 4 bits: {found[args.engine]:.1%} of the predictions of PyTorch")
    return found


if __name__ == "__main__":
    main()
