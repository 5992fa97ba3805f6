"""Experiment trackers behind Lightning's loggers: W&B, TensorBoard, MLflow, and what each can show.

A logger is known by the name of its class, so that both packages of Lightning, and a logger of a library that
is not installed, need no import.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HIGHER_IS_BETTER = {"top1": "max", "top5": "max", "loss": "min", "disagreement": "min"}


def is_a(logger: Any, kind: str) -> bool:
    """True if a logger is Lightning's of that name, or inherits from it."""
    return any(one.__name__ == kind for one in type(logger).__mro__)


def is_csv(logger: Any) -> bool:
    """True for ``metrics.csv``."""
    return is_a(logger, "CSVLogger")


def define_summaries(logger: Any, modes: Sequence[str], hidden: Sequence[str]) -> None:
    """W&B keeps of each metric the best and the last value; ``hidden`` ones get no chart of their own."""
    if not is_a(logger, "WandbLogger"):
        return
    run = logger.experiment
    run.define_metric("epoch", hidden=True)
    for name, best in HIGHER_IS_BETTER.items():
        for mode in modes:
            run.define_metric(f"val/{name}/{mode}", step_metric="epoch", summary=f"{best},last")
    for mode in modes:
        run.define_metric(f"train/loss/{mode}", step_metric="epoch", summary="min,last")
    for name in ("mean", "lowest"):
        run.define_metric(f"val/top1/{name}", step_metric="epoch", summary="max,last")
    for name in hidden:
        run.define_metric(name, hidden=True)


def log_point(logger: Any, values: Mapping[str, float]) -> None:
    """A row of W&B's history, for charts that draw one metric against another."""
    if is_a(logger, "WandbLogger"):
        logger.experiment.log(dict(values))


def log_histograms(logger: Any, numbers: Mapping[str, np.ndarray], step: int) -> None:
    """How often each value occurs; a single number as a metric, which every tracker draws.

    Args:
        logger: any but ``metrics.csv``, which is left as it is.
        numbers: by name of the chart, of any shape.
        step: of the optimizer.
    """
    if is_csv(logger):
        return
    logger.log_metrics({name: float(one.item()) for name, one in numbers.items() if one.size == 1}, step=step)
    many = {name: one.ravel() for name, one in numbers.items() if one.size > 1}
    if is_a(logger, "TensorBoardLogger"):
        for name, one in many.items():
            logger.experiment.add_histogram(name, one, step, bins=edges_of(one))
    elif is_a(logger, "WandbLogger"):
        import wandb

        found = {n: wandb.Histogram(np_histogram=np.histogram(one, edges_of(one))) for n, one in many.items()}
        logger.experiment.log({**found, "trainer/global_step": step})


def edges_of(numbers: np.ndarray) -> np.ndarray:
    """Edges of the bars of a histogram: one bar for each integer of up to 256, else 64 of the same width."""
    low, high = numbers.min(), numbers.max()
    if (numbers == numbers.round()).all() and high - low < 256:
        return np.arange(low - 0.5, high + 1)
    return np.histogram_bin_edges(numbers, 64)


def log_table(logger: Any, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """A table: a row per mapping, all with the keys of the first."""
    columns: list[Any] = list(rows[0])
    cells = [[row[column] for column in columns] for row in rows]
    if is_a(logger, "WandbLogger"):
        import wandb

        logger.experiment.log({name: wandb.Table(columns, cells)})
    elif is_a(logger, "TensorBoardLogger"):
        lines = [columns, ["---"] * len(columns), *cells]
        text = "\n".join("| " + " | ".join(map(_rounded, line)) + " |" for line in lines)
        logger.experiment.add_text(name, text, step)
    elif is_a(logger, "MLFlowLogger"):
        text_file = io.StringIO()
        csv.writer(text_file).writerows([columns, *cells])
        logger.experiment.log_text(logger.run_id, text_file.getvalue(), f"{name}.csv")


def keeps_files(logger: Any) -> bool:
    """True if a tracker takes files, see :func:`log_file`."""
    return is_a(logger, "WandbLogger") or is_a(logger, "MLFlowLogger")


def log_file(logger: Any, path: Path, about: Mapping[str, Any]) -> None:
    """A file as an artifact, of W&B with what it is ``about`` as metadata."""
    if is_a(logger, "WandbLogger"):
        import wandb

        artifact = wandb.Artifact(f"{logger.experiment.id}-qz", "model", metadata=dict(about))
        artifact.add_file(str(path))
        logger.experiment.log_artifact(artifact)
    elif is_a(logger, "MLFlowLogger"):
        logger.experiment.log_artifact(logger.run_id, str(path))


def _rounded(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
