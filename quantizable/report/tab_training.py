"""The page's tab on training: accuracy and loss of each mode by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantizable.report.charts import axes, line
from quantizable.report.found import Found
from quantizable.report.groups import Groups, named
from quantizable.report.page import Chart, Grid, Part, Tab
from quantizable.report.runs import Curve, Run


def training(found: Found) -> Tab | None:
    """The tab; None without a run that holds ``metrics.csv``."""
    runs = [run for group in found.runs.values() for run in group]
    with_curves = [run for run in runs if any(run.curves.values()) or any(run.losses.values())]
    if not with_curves:
        return None
    parts: list[Part] = []
    if len(runs) == 1:
        parts += _one(runs[0])
    else:
        parts += _several(named(found.runs))
    parts.append(_settings(runs))
    return Tab("training", parts)


def _one(run: Run) -> list[Part]:
    curves = {name: curve for name, curve in run.curves.items() if name != "mean"}
    return [
        *_chart(
            "Validation accuracy",
            f"Top-1 accuracy on held-out images after each epoch of {run.name}, one line for each bit mode; "
            f"at the end {_ends(curves, 100, '.2f')}.",
            curves,
            "top-1, %",
            100,
        ),
        *_chart(
            "Training loss",
            f"Mean loss on the training images of each epoch of {run.name}, one line for each bit mode; "
            f"at the end {_ends(run.losses, 1, '.3g')}.",
            run.losses,
            "loss",
        ),
    ]


def _several(groups: Groups) -> list[Part]:
    lines: list[dict[str, Any]] = []
    for number, (label, members) in enumerate(groups.items()):
        for index, run in enumerate(members):
            x, y = _points(run.curves.get("mean", []), 100)
            shown = {"legendgroup": label, "showlegend": index == 0, "hovertext": run.name}
            lines.append(line(label, x, y, number, **shown))
    last = {
        label if len(members) == 1 else run.name: run.curves.get("mean", [])
        for label, members in groups.items()
        for run in members
    }
    says = (
        "Top-1 accuracy on held-out images after each epoch, mean over the modes, one line for each run; "
        f"at the end {_ends(last, 100, '.2f', '')}."
    )
    return [Chart("Validation accuracy", says, lines, _by_epoch("top-1, mean over modes, %", lines))]


def _chart(title: str, says: str, curves: Mapping[str, Curve], y: str, unit: float = 1) -> list[Part]:
    lines = [
        line(f"mode {name}", *_points(curve, unit), number)
        for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda pair: _order(pair[0])))
        if curve
    ]
    return [Chart(title, says, lines, _by_epoch(y, lines))] if lines else []


def _by_epoch(y: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    few = max((len(line["x"]) for line in lines), default=0) <= 10  # no epoch has a half
    return axes("epoch", y, xaxis={"dtick": 1} if few else {})


def _ends(curves: Mapping[str, Curve], unit: float, form: str, what: str = "mode ") -> str:
    """The lowest and the highest last value of the curves, in ``unit``, with their names."""
    last = sorted((unit * curve[-1][1], name) for name, curve in curves.items() if curve)
    if not last:
        return "nothing was measured"
    (least, low), (most, high) = last[0], last[-1]
    if low == high:
        return f"{least:{form}} ({what}{low})"
    return f"from {least:{form}} ({what}{low}) to {most:{form}} ({what}{high})"


def _points(curve: Curve, unit: float) -> tuple[list[int], list[float]]:
    return [epoch for epoch, _ in curve], [unit * value for _, value in curve]


def _order(mode: str) -> tuple[int, str]:
    return (int(mode), "") if mode.isdigit() else (0, mode)


def _settings(runs: list[Run]) -> Grid:
    head = ["run", "network", "data", "epochs", "seed", "seconds of training", "quantizable", "torch"]
    rows = []
    for run in runs:
        results, versions = run.results, run.results.get("versions", {})
        rows.append(
            [
                run.name,
                run.config.get("model.name", ""),
                str(run.config.get("data._target_", "")).rpartition(".")[2],
                results.get("epochs", ""),
                results.get("seed", ""),
                results.get("train_seconds", ""),
                versions.get("quantizable", ""),
                versions.get("torch", ""),
            ]
        )
    return Grid("Runs", head, rows)
