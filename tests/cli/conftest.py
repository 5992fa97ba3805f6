"""The small network of :mod:`tests.small_net`, and a checkpoint of a still smaller one."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from quantizable import QuantizableClassifier
from quantizable.data import Fake
from tests.small_net import images, make

__all__ = ["images", "make"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has seen noise only: its modes disagree often."""
    torch.manual_seed(0)
    data = Fake(size=64, num_classes=4, in_chans=1, image_size=12, batch_size=16)
    options = {"in_chans": 1, "cifar_stem": False, "width": 4}
    module = QuantizableClassifier("patch_cnn", num_classes=4, bits=[2, 8, 32], model_options=options)
    trainer = pl.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, data)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    trainer.save_checkpoint(path)
    return path
