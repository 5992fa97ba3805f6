"""Train all modes for a task of your own: predict how diabetes progresses from ten measurements.

    python examples/custom_module.py

A subclass of ``MultiModeModule`` gives the loss; modes, teachers and norms are taken care of. The data are
scikit-learn's ``load_diabetes``: 442 patients, ten numbers each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import quantizable
from quantizable.training.optim import OptimizerConfig


class Progression(quantizable.MultiModeModule):
    """Regression in every mode, with the explained variance (R²) of each mode on the validation set."""

    def loss(self, output: Tensor, batch: Sequence[Tensor]) -> Tensor:
        return F.mse_loss(output.squeeze(1), batch[1])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        target = batch[1]
        for mode, output in self.outputs_by_mode(batch):  # each mode's output, from the highest to the lowest
            unexplained = F.mse_loss(output.squeeze(1), target) / target.var(unbiased=False)
            self.log(f"val/r2/{mode.name}", 1 - unexplained, prog_bar=True)


def loaders() -> tuple[DataLoader, DataLoader]:
    """Training and validation batches of (measurements ``[B, 10]``, progression ``[B]``), standardized."""
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    parts = train_test_split(inputs, targets, test_size=0.25, random_state=0)
    x_train, x_val, y_train, y_val = (torch.tensor(part, dtype=torch.float32) for part in parts)
    x_mean, x_std, y_mean, y_std = x_train.mean(0), x_train.std(0), y_train.mean(), y_train.std()
    train = TensorDataset((x_train - x_mean) / x_std, (y_train - y_mean) / y_std)
    val = TensorDataset((x_val - x_mean) / x_std, (y_val - y_mean) / y_std)
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=len(val))


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train; print, and return by mode, R² on the validation set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args(argv)

    pl.seed_everything(0, verbose=False)
    float_network = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    network = quantizable.quantize(float_network, bits=[2, 4, 8, 32])
    module = Progression(network, optimizer=OptimizerConfig(lr=0.05, weight_decay=0.01), clip_norm=1.0)
    train, val = loaders()
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, train, val)
    explained = {mode.name: float(trainer.callback_metrics[f"val/r2/{mode.name}"]) for mode in module.modes}
    for name, value in explained.items():
        print(f"{name:>2} bits: R² {value:.3f}")
    return explained


if __name__ == "__main__":
    main()
