"""Two processes: gradients are exchanged once per optimizer step, whatever the number of modes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from quantizable.training.classifier import QuantizableClassifier
from tests.two_processes import run_in_two


class CountAllReduces(pl.Callback):
    """Counts in each batch what gloo is asked to reduce, also by DDP's own C++ code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.profiler.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.profiler.__exit__(None, None, None)
        self.counts.append(sum(event.name == "gloo:all_reduce" for event in self.profiler.events()))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        del self.profiler
        parameters = [p.double().sum().item() for p in module.parameters()]
        result = {"counts": self.counts, "parameters": parameters}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(result))


def train(rank: int, folder: Path, keep_weights: bool, port: int) -> None:
    """Four batches in one of the two processes; ``RANK.json`` says what it counted and ended with."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    )
    options: dict[str, Any] = {"optimizer": {"lr": 0.05}, "accumulate": 2, "keep_weights": keep_weights}
    module = QuantizableClassifier(model, 4, bits=[2, 4, 8, 32], **options)
    data = TensorDataset(torch.randn(32, 3, 8, 8), torch.arange(32) % 4)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[CountAllReduces(folder)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=4))


@pytest.mark.slow
@pytest.mark.parametrize("keep_weights", [False, True])
def test_one_gradient_exchange_per_optimizer_step(tmp_path: Path, keep_weights: bool) -> None:
    run_in_two(train, tmp_path, keep_weights, find_free_network_port())
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["counts"] == second["counts"] == [0, 1, 0, 1]
    # each process saw other images: only an exchange of the gradients keeps them the same
    assert first["parameters"] == pytest.approx(second["parameters"], rel=1e-9)
