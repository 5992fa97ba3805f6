"""Do modes agree on a line of images, brighter or of more contrast? ``quantizable verify --line``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.interface.progress import progress
from quantizable.report.files import write_text
from quantizable.storage.network_file import read_about
from quantizable.verify.graph import Graph
from quantizable.verify.segments import Line, agree_along


def verify_lines(
    args: argparse.Namespace, modes: Sequence[str], graphs: Sequence[Graph], pixels: Tensor
) -> int:
    """Ask of each image whether all modes give the first's class on the line from -radius to radius; exit
    status 0: all proved.

    Args:
        args: of the command.
        modes, graphs: the first is compared with the others.
        pixels: ``(n, *input_shape)`` in [0, 1].

    Raises:
        ValueError: pixels out of range.
    """
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(
            f"{args.inputs} holds {pixels.min():.3g} to {pixels.max():.3g}; --line takes pixels in [0, 1], "
            "not normalized"
        )
    info = (read_about(args.network) or {}).get("data") or {}  # an .npz has none
    mean, std = (torch.tensor(info.get(key) or (default,)) for key, default in (("mean", 0.0), ("std", 1.0)))
    rows: list[dict[str, Any]] = []
    for i, image in enumerate(progress(list(pixels), "verifying")):
        line = Line.of(args.line, image)
        first, *others = (line.before(graph, *(v.view(-1, 1, 1) for v in (mean, std))) for graph in graphs)
        found = agree_along(
            first, dict(zip(modes[1:], others, strict=True)), -args.radius, args.radius, args.time_limit,
            execution=args.execution,
        )  # fmt: skip
        rows += [
            {"query": f"{args.inputs.stem}[{i}] mode {name}", **asdict(one)} for name, one in found.items()
        ]
    _show(args.line, args.radius, rows)
    if args.output is not None:
        path = Path(args.output) / "lines.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"line": args.line, "radius": args.radius, "execution": args.execution, "found": rows}
        write_text(path, json.dumps(about, indent=1) + "\n")
        print(f"wrote {path}")
    return 0 if all(row["status"] == "proved" for row in rows) else 1


def _show(kind: str, radius: float, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"Agreement along {kind} from {-radius:g} to {radius:g}")
    for column in ("query", "status", "proved share, %", "disagree at", "seconds"):
        table.add_column(column)
    for row in rows:
        at = "" if row["at"] is None else f"{row['at']:.4g}"
        share, seconds = f"{100 * row['share']:.1f}", f"{row['seconds']:.2f}"
        table.add_row(row["query"].replace("[", r"\["), row["status"], share, at, seconds)
    Console().print(table)
