"""The test set, looked at before training: what is wrong with it would else be said after hours."""

from __future__ import annotations

from typing import Any

from quantizable.data import DataModule


def check_test_set(cfg: dict[str, Any], datamodule: DataModule) -> None:
    """Read the test set of a run that will ask for it.

    Raises:
        ValueError: it cannot be read, it is empty, or the share of it that the trainer is limited to is.
    """
    if not cfg["test"]:
        return
    datamodule.setup("test")
    batches, limit = len(datamodule.test_dataloader()), cfg["trainer"]["limit_test_batches"]
    if batches == 0:
        raise ValueError("the test set is empty; give test=false to measure on the validation set")
    if isinstance(limit, float) and int(batches * limit) == 0:
        raise ValueError(f"trainer.limit_test_batches={limit} of {batches} test batches is none; give more")
