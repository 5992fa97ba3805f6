"""The page's tab on agreement: how often the modes differ, from ``assessment.json`` and its pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantizable.report.agreement_tables import tables
from quantizable.report.charts import Interval, axes, heatmap, line, overlap_warning, overlapping, spread
from quantizable.report.found import Found
from quantizable.report.page import Chart, Grid, Note, Part, Picture, Tab

Shift = Mapping[str, Any]


def agreement(found: Found) -> Tab | None:
    """The tab; None without an assessment."""
    shown: list[Part] = []
    for name, (about, folder) in found.assessments.items():
        parts: list[Part] = []
        if not about["complete"]:
            parts.append(Note(f"{about['title']}: interrupted; this is what was found until then."))
        parts += [Note(f"Not computed: {what}: {why}") for what, why in about["skipped"].items()]
        if about["shifts"]:
            parts += _clean(about["shifts"][0], about.get("inputs", "images"))
            parts += _severity(about["shifts"], about.get("inputs", "images"))
        parts += _indicators(about)
        parts += _cascade(about)
        parts += _pictures(about, folder)
        parts += tables(about)
        shown += parts if len(found.assessments) == 1 else [_named(name, part) for part in parts]
    return Tab("agreement", shown) if shown else None


def _named(name: str, part: Part) -> Part:
    """The part with its assessment's name before its title."""
    return replace(part, title=f"{name}: {part.title}") if isinstance(part, Chart | Grid) else part


def _clean(clean: Shift, inputs: str) -> list[Part]:
    names, images = clean["names"], clean["images"]
    named: list[tuple[str, Interval | None]] = [
        (f"mode {name}", clean["disagreement"][row][-1]) for row, name in enumerate(names[:-1])
    ]
    what = (
        ("Disagreement", "disagreement", "%", 100.0, "the share of them that get another class"),
        ("Distance", "distance", "", 1.0, "mean Jensen-Shannon distance of the probabilities (0: equal)"),
    )
    return [
        Chart(
            f"{title} between modes",
            f"Every mode against every other on {images} clean {inputs}: {said}"
            f"{_farthest(names, clean[key], unit, factor)}.",
            [heatmap(names, [[factor * cell[0] for cell in row] for row in clean[key]], unit)],
            {"xaxis": {"automargin": True}, "yaxis": {"automargin": True, "autorange": "reversed"}},
            overlap_warning(named, f"differs more often from mode {names[-1]}")
            if key == "disagreement"
            else "",
        )
        for title, key, unit, factor, said in what
    ]


def _farthest(names: Sequence[str], rows: Sequence[Any], unit: str, factor: float) -> str:
    """The mode that is farthest from the highest."""
    if len(names) < 2:
        return ""
    value, name = max((factor * rows[i][-1][0], name) for i, name in enumerate(names[:-1]))
    return f"; farthest from mode {names[-1]} is mode {name} ({value:.3g}{' ' * bool(unit)}{unit})"


def _severity(shifts: Sequence[Shift], inputs: str) -> list[Part]:
    levels = sorted({one["severity"] for one in shifts if one["severity"]})
    if not levels:
        return []
    names = shifts[0]["names"]
    # a natural shift has severity 0, too, and belongs to none of the groups
    groups = [[shifts[0]], *([one for one in shifts if one["severity"] == level] for level in levels)]
    x = [0, *levels]

    def mean(of: Callable[[Shift], Sequence[float]]) -> list[Interval]:
        """In percent, with ends that are rather too wide: the means of those of each corruption."""
        ends = [zip(*map(of, group), strict=True) for group in groups]
        return [tuple(100 * statistics.mean(one) for one in three) for three in ends]  # type: ignore[misc]

    accuracy = {f"mode {name}": mean(lambda one, name=name: one["accuracy"][name]) for name in names}  # type: ignore[misc]
    differs = {
        f"mode {name}": mean(lambda one, row=row: one["disagreement"][row][-1])  # type: ignore[misc]
        for row, name in enumerate(names[:-1])
    }
    over = "the mean over the corruptions of a severity, 0 is clean"
    return [
        Chart(
            "Accuracy under corruption",
            f"Accuracy of each mode against the severity of corruption ({over}): {_change(x, accuracy)}.",
            _lines(x, accuracy),
            axes("severity", "accuracy, %"),
            _unsure(x, accuracy, "is more accurate"),
        ),
        Chart(
            "Disagreement under corruption",
            f"Share of {inputs} on which a mode differs from mode {names[-1]}, against severity ({over}): "
            f"{_change(x, differs)}.",
            _lines(x, differs),
            axes("severity", f"differs from mode {names[-1]}, %"),
            _unsure(x, differs, f"differs more often from mode {names[-1]}"),
        ),
    ]


def _lines(x: Sequence[int], by_mode: Mapping[str, Sequence[Interval]]) -> list[dict[str, Any]]:
    return [
        line(name, x, [one[0] for one in points], number, **spread(points))
        for number, (name, points) in enumerate(by_mode.items())
    ]


def _unsure(x: Sequence[int], by_mode: Mapping[str, Sequence[Interval]], what: str) -> str:
    """A sentence on the modes whose intervals overlap, and at which severities; empty where none do."""
    where: dict[tuple[str, ...], list[str]] = {}
    for number, severity in enumerate(x):
        for pair in overlapping((name, points[number]) for name, points in by_mode.items()):
            where.setdefault(tuple(sorted(pair)), []).append(str(severity))
    listed = "; ".join(f"{' and '.join(pair)} (severity {', '.join(at)})" for pair, at in where.items())
    return (
        f"95 % intervals overlap: {listed}. Which of them {what} is not certain from these data."
        if where
        else ""
    )


def _change(x: Sequence[int], by_mode: Mapping[str, Sequence[Interval]]) -> str:
    """From the first severity to the last, by mode."""
    spans = (f"{points[0][0]:.1f} to {points[-1][0]:.1f} % in {name}" for name, points in by_mode.items())
    return f"from severity {x[0]} to {x[-1]} " + ", ".join(spans)


def _indicators(about: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for mode, curves in (about.get("roc") or {}).items():
        lines = [
            line(name.replace("_", " "), _percent(curve[0]), _percent(curve[1]), number, mode="lines")
            for number, (name, curve) in enumerate(curves.items())
        ]
        named = [
            (name.replace("_", " "), quality["auroc"]) for name, quality in about["indicators"][mode].items()
        ]
        parts.append(
            Chart(
                f"Can mode {mode} tell that it is wrong?",
                f"What share of the inputs on which mode {mode} disagrees each indicator flags, against the "
                "share of the others that it flags: up and left is better.",
                lines,
                axes("agreeing inputs flagged, %", "disagreeing inputs flagged, %"),
                overlap_warning(named, "is the better indicator"),
            )
        )
    return parts


def _cascade(about: Mapping[str, Any]) -> list[Part]:
    points = about["cascade"]
    if not points:
        return []
    data = [line("cascade", [p["bops"] / 1e9 for p in points], [100 * p["accuracy"] for p in points])]
    layout = axes("10⁹ bit operations an image, on average", "accuracy, %", xaxis={"type": "log"})
    dotted: dict[str, Any] = {"mode": "lines", "line": {"dash": "dot"}}
    data += [
        line(f"mode {name} alone", [cost / 1e9] * 2, _range(points), number + 1, **dotted)
        for number, (name, cost) in enumerate(about["bops_per_image"].items())
    ]
    guard = about["guard"]
    modes = f"mode {guard['low']}, and mode {guard['high']}" if guard else "the low mode, and the high mode"
    says = f"Accuracy against cost of asking {modes} where unsure; dotted: the cost of a mode alone."
    return [Chart("Cascade", says, data, layout)]


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _range(points: Sequence[Mapping[str, Any]]) -> list[float]:
    values = [100 * point["accuracy"] for point in points]
    return [min(values), max(values)]


def _pictures(about: Mapping[str, Any], folder: Path) -> list[Part]:
    listed = about.get("pictures") or {}
    return [
        Picture(says, (folder / Path(name).name).read_bytes())
        for name, says in listed.items()
        if (folder / Path(name).name).is_file()
    ]
