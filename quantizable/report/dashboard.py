"""``quantizable dashboard``: a W&B workspace that lays out the panels in which modes are compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantizable.bits import parse_modes
from quantizable.report.files import write_json


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("dashboard", help="save a W&B workspace that compares the modes")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--project", default="quantizable", help="W&B project (default: quantizable)")
    parser.add_argument("--bits", default="2,4,8,32", help="modes to lay out, separated by commas")
    parser.add_argument(
        "--dry-run", type=Path, metavar="FILE", help="write what would be saved, as JSON, and save nothing"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Save the workspace, or write it to a file."""
    modes = [mode.name for mode in parse_modes(args.bits)]
    if args.dry_run is None and not args.entity:
        raise ValueError("give --entity (W&B user or team), or --dry-run FILE to see what would be saved")
    made = workspace(args.entity or "entity", args.project, modes)
    if args.dry_run is not None:
        write_json(args.dry_run, json.loads(made._to_model().model_dump_json()))
        print(f"wrote {args.dry_run}")
        return 0
    from wandb.errors import Error

    try:
        made.save()
    except Error as error:
        raise OSError(f"W&B did not take the workspace ({error}); log in with: wandb login") from error
    print(made.url)
    return 0


def workspace(entity: str, project: str, modes: Sequence[str]) -> Any:
    """The workspace: every metric with one line per mode, final accuracies as bars, the tables of the runs.

    Raises:
        ImportError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ImportError(
            "the dashboard needs wandb-workspaces: pip install quantizable[dashboard]"
        ) from error

    def lines(stage: str, metric: str, title: str) -> Any:
        return panels.LinePlot(title=title, x="epoch", y=[f"{stage}/{metric}/{mode}" for mode in modes])

    validation = [
        lines("val", "top1", "top-1 by mode"),
        lines("val", "top5", "top-5 by mode"),
        lines("val", "loss", "loss by mode"),
        lines("val", "disagreement", "disagreement with the highest mode"),
        panels.LinePlot(title="mean and lowest mode", x="epoch", y=["val/top1/mean", "val/top1/lowest"]),
    ]
    test: list[Any] = [
        panels.BarPlot(title="test top-1 by mode", metrics=[f"test/top1/{mode}" for mode in modes])
    ]
    training: list[Any] = [
        panels.LinePlot(title="training loss by mode", x="epoch", y=[f"train/loss/{m}" for m in modes])
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Bit modes compared",
        sections=[
            ws.Section(name="Modes: validation", panels=validation, is_open=True),
            ws.Section(name="Modes: test", panels=test, is_open=True),
            ws.Section(name="Training", panels=training),
        ],
    )
