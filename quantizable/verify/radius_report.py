"""Up to which radius bounds prove that modes agree: lines and a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from quantizable.interface.progress import progress
from quantizable.report.files import write_json
from quantizable.verify.agreement import largest_radius
from quantizable.verify.box import Box
from quantizable.verify.execution import Execution
from quantizable.verify.graph import Graph

Row = dict[str, Any]


def radius_rows(
    first: Graph,
    others: Mapping[str, Graph],
    inputs: Tensor,
    radius: float,
    limits: tuple[float, float],
    execution: Execution,
) -> list[Row]:
    """For each input and mode the largest radius, up to ``radius``, for which bounds prove that the mode
    gives the first one's class; None where they prove it for none.

    Args:
        first, others: the networks of the modes.
        inputs: ``(n, *input_shape)``.
        radius: the largest that is tried, in units of the input.
        limits: the smallest and the largest legal input.
        execution: what runs the networks.
    """
    rows = []
    for i, x in enumerate(progress(list(inputs), "bisecting")):
        around = partial(_around, x[None], limits)
        found = largest_radius(around, first, others, radius, execution=execution)
        label = int(first(x[None]).flatten().argmax())
        rows += [
            {"input": i, "class": label, "mode": mode, "radius": r, "execution": execution}
            for mode, r in found.items()
        ]
    return rows


def show_radii(name: str, rows: Sequence[Row], folder: Path | None) -> None:
    """Print a line for each row and write all of them to ``radii.json``."""
    for row in rows:
        up_to = "at any radius" if row["radius"] is None else f"up to radius {row['radius']:.6g}"
        proved = "not proved" if row["radius"] is None else "proved"
        print(
            f"{name}[{row['input']}] class {row['class']} mode {row['mode']}: agreement is {proved} {up_to}"
        )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "radii.json", list(rows))
        print(f"wrote {folder / 'radii.json'}")


def _around(x: Tensor, limits: tuple[float, float], radius: float) -> Box:
    return Box.around(x, radius, *limits)
