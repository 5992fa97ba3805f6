"""``quantizable dashboard``: a W&B workspace that lays out the panels in which modes are compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from quantizable.bits import parse_modes
from quantizable.report.files import write_json
from quantizable.report.metric_names import AGAINST_BITS, TABLE, THROUGHPUT


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
    """The workspace: how the modes of each run compare, one chart per metric with a line per mode, and how
    the runs of a sweep compare in every mode.

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

    sections = [
        ws.Section(name="Modes at a glance", panels=glance(panels, modes), is_open=True),
        ws.Section(name="Modes: validation", panels=validation(panels, modes), is_open=True),
        ws.Section(name="Training", panels=training(panels, modes)),
    ]
    return ws.Workspace(entity=entity, project=project, name="Bit modes compared", sections=sections)


def glance(panels: Any, modes: Sequence[str]) -> list[Any]:
    """The table of modes, accuracy against bits and against cost, runs against modes."""
    bits, top1, epoch = AGAINST_BITS
    table = f"test/{TABLE}"
    against_bits = panels.CustomChart(
        query={"history": {"keys": list(AGAINST_BITS)}},
        chart_name="wandb/lineseries/v0",
        chart_fields={"step": bits, "lineKey": epoch, "lineVal": top1},
        chart_strings={"title": "validation top-1 against bits, a line for each epoch", "xname": "bits"},
    )
    against_cost = panels.CustomChart(
        query={"summaryTable": {"tableKey": table}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": "gbops", "y": "top1"},
        chart_strings={"title": "test top-1 against 10^9 bit operations, a point for each mode"},
    )
    columns = [
        panels.ParallelCoordinatesPlotColumn(
            metric=panels.SummaryMetric(f"test/top1/{mode}"), display_name=f"mode {mode}"
        )
        for mode in modes
    ]
    return [
        panels.WeavePanelSummaryTable(table_name=table),
        against_bits,
        against_cost,
        panels.ParallelCoordinatesPlot(title="test top-1: a line a run, an axis a mode", columns=columns),
        panels.BarPlot(title="test top-1 by mode", metrics=[f"test/top1/{mode}" for mode in modes]),
    ]


def validation(panels: Any, modes: Sequence[str]) -> list[Any]:
    """One chart per metric, a line per mode."""
    titles = {
        "top1": "top-1 by mode",
        "top5": "top-5 by mode",
        "loss": "loss by mode",
        "disagreement": "disagreement with the highest mode",
    }
    charts = [
        panels.LinePlot(title=title, x="epoch", y=[f"val/{metric}/{mode}" for mode in modes])
        for metric, title in titles.items()
    ]
    ends = ["val/top1/mean", "val/top1/lowest"]
    return [*charts, panels.LinePlot(title="mean and lowest mode", x="epoch", y=ends)]


def training(panels: Any, modes: Sequence[str]) -> list[Any]:
    """Loss by mode, and images per second."""
    losses = [f"train/loss/{mode}" for mode in modes]
    return [
        panels.LinePlot(title="training loss by mode", x="epoch", y=losses),
        panels.LinePlot(title="images per second", x="epoch", y=[THROUGHPUT]),
    ]
