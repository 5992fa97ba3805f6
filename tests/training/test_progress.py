"""A training shows how far it is on a terminal, and leaves no bars in a file."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ProgressBar

from quantizable.training.run import make_module, make_trainer
from tests.tiny import config


@pytest.mark.parametrize(("words", "terminal", "shown"), [([], True, 1), ([], False, 0),
                         (["+trainer.enable_progress_bar=false"], True, 0)])  # fmt: skip
def test_bars_are_for_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], terminal: bool, shown: int
) -> None:
    cfg = config(tmp_path, *words)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    module = make_module(plain, instantiate(cfg.scheme), instantiate(cfg.data))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    trainer = make_trainer(plain, cfg, tmp_path, module)
    assert sum(isinstance(one, ProgressBar) for one in trainer.callbacks) == shown  # type: ignore[attr-defined]
