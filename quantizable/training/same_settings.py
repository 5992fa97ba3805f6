"""Whether a run that is to be resumed asks for the settings that it was begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from quantizable.training.overrides import leaves

# what may change: places, machines, trackers and how long
FREE = ("resume", "run", "output", "test", "start", "finetune", "logger", "trainer")
NETWORK = ("model", "bits", "quantizer")  # of which the checkpoint itself says more
FREE_LEAVES = (
    *("data.root", "data.num_workers", "data.download", "data.verify", "schedule.epochs"),
    *("train.teacher", "train.teacher_weights", "train.histograms_every", "train.recompute_activations"),
)


def differing(cfg: dict[str, Any], folder: Path) -> dict[str, tuple[Any, Any]]:
    """Settings that the run in the folder was begun with, and those asked for, by key where they differ.

    A setting that either does not have says nothing: it is younger than the run, or older.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    began, asked = (dict(leaves(one)) for one in (yaml.safe_load(path.read_text()) or {}, cfg))
    return {
        key: (began[key], value)
        for key, value in asked.items()
        if not isinstance(value, dict)
        and key in began
        and began[key] != value
        and key.partition(".")[0] not in FREE
        and key not in FREE_LEAVES
    }


def check_same_settings(cfg: dict[str, Any], checkpoint: Path) -> None:
    """``ValueError`` for a run that would go on with other settings than it was begun with."""
    config = checkpoint.with_name("config.yaml")
    for key, (began, asked) in differing(cfg, checkpoint.parent).items():
        if key.partition(".")[0] in NETWORK:  # description.check_same_network looks at it
            continue
        raise ValueError(
            f"{checkpoint} cannot be resumed: it was begun with {key}={began}, asked for is {asked}; give "
            f"the line of that run again, with which {config} begins, or leave out resume to begin another"
        )
