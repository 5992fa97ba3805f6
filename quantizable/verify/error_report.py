"""How far each logit and each margin of a mode can be from the first mode's: a table and a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from quantizable.interface.progress import progress
from quantizable.report.files import write_text
from quantizable.verify.box import Box
from quantizable.verify.confidence import mode_errors
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph

TOGETHER = 8  # boxes in one call
Row = dict[str, Any]


def error_rows(first: Graph, others: Mapping[str, Graph], box: Box, execution: Execution) -> list[Row]:
    """For each box and mode: the class, and bounds of the errors of its logits and of its class's margins.

    ``logits`` holds [low, high] of each class, ``margins`` those of the class's margin to each class.
    """
    rows = []
    for start in progress(range(0, len(box), TOGETHER), "bounding"):
        part = box[start : start + TOGETHER]
        labels = first(part.center).flatten(1).argmax(1)
        found = mode_errors(first, others, part, execution=execution)
        for i, label in enumerate(labels.tolist()):
            for mode, errors in found.items():
                logits = torch.stack([side[i] for side in errors.logits], 1)
                margins = torch.stack([side[i, label] for side in errors.margins], 1)
                sides = {"logits": logits.tolist(), "margins": margins.tolist()}
                rows.append(
                    {"input": start + i, "mode": mode, "class": label, "execution": execution, **sides}
                )
    return rows


def show_errors(name: str, rows: Sequence[Row], folder: Path | None, console: Console | None = None) -> None:
    """Print the largest error of each row and write all of them to ``errors.json``."""
    table = Table(title="Proved errors")
    for column in ("input", "mode", "largest of a logit", "of the class's logit", "of its margins"):
        table.add_column(column)
    for row in rows:
        logits, margins = ([max(-low, high) for low, high in row[kind]] for kind in ("logits", "margins"))
        sizes = (max(logits), logits[row["class"]], max(margins))
        title = f"{name}\\[{row['input']}] class {row['class']}"
        table.add_row(title, row["mode"], *(f"{size:.6g}" for size in sizes))
    (console or Console()).print(table)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "errors.json", json.dumps(list(rows), indent=1) + "\n")
        print(f"wrote {folder / 'errors.json'}")
