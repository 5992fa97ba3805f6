"""The page's tab on cost: operations, bytes and latency of each mode, from ``quantizable cost --output``."""

from __future__ import annotations

from typing import Any

from quantizable.report.charts import COLORS, Interval, axes, bars, by_name, overlap_warning, spread
from quantizable.report.found import Found, Rows
from quantizable.report.page import Chart, Grid, Part, Tab

COUNTED = {"bops": "bit operations for one image", "weight_bytes": "bytes of the quantized weights"}


def cost(found: Found) -> Tab | None:
    """The tab; None without ``cost.csv``."""
    parts: list[Part] = []
    for name, rows in found.costs.items():
        parts += _charts(name, rows)
        parts.append(_grid(f"{name}: by mode", rows))
        if layers := found.layers.get(name):
            parts += _layers(name, layers)
    return Tab("cost", parts) if parts else None


def _charts(name: str, rows: Rows) -> list[Part]:
    parts: list[Part] = []
    modes = [f"mode {row['mode']}" for row in rows]
    accuracies = [_percent(row.get("top1")) for row in rows]
    intervals = [_interval(row) for row in rows]
    for key, what in COUNTED.items():
        amounts = [_number(row[key]) for row in rows]
        if all(value is not None for value in accuracies):
            points = {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": amounts,
                "y": accuracies,
                "text": modes,
                "textposition": "top left",
                "cliponaxis": False,
                "line": {"color": COLORS[0]},
                "name": name,
                **spread(intervals),
            }
            layout = axes(what, "top-1, %", xaxis={"type": "log" if key == "bops" else "linear"})
            says = f"Top-1 accuracy of each mode of {name} against its {what}: {_span(amounts, modes)}."
            warning = overlap_warning(zip(modes, intervals, strict=True), "is more accurate")
            parts.append(Chart(f"Accuracy against {what}", says, [points], layout, warning))
        else:
            layout = by_name(axes("", what))
            says = f"The {what} of each mode of {name}: {_span(amounts, modes)}."
            parts.append(Chart(what.capitalize(), says, [bars(name, modes, amounts)], layout))
    engines = [key for key in (rows[0] if rows else {}) if key.endswith("_ms")]
    if engines:
        timed = [
            bars(key.removesuffix("_ms"), modes, [_number(row[key]) for row in rows], number)
            for number, key in enumerate(engines)
        ]
        spans = "; ".join(f"{one['name']} {_span(one['y'], modes, '.3g')}" for one in timed)
        says = f"Median milliseconds for one image in each mode of {name}, by engine: {spans}."
        parts.append(Chart("Latency", says, timed, {**by_name(axes("", "milliseconds")), "barmode": "group"}))
    return parts


def _layers(name: str, layers: Rows) -> list[Part]:
    modes = list(dict.fromkeys(row["mode"] for row in layers))
    names = list(dict.fromkeys(row["layer"] for row in layers))
    by_mode: list[dict[str, Any]] = []
    for number, mode in enumerate(modes):
        own = {row["layer"]: _number(row["bops"]) for row in layers if row["mode"] == mode}
        by_mode.append(bars(f"mode {mode}", names, [own.get(layer) for layer in names], number))
    layout = by_name(axes("layer", "bit operations", yaxis={"type": "log"}))
    says = f"Bit operations of each layer of {name} for one image, one color for each mode."
    return [
        Chart("Bit operations by layer", says, by_mode, {**layout, "barmode": "group"}),
        _grid(f"{name}: by layer and mode", layers),
    ]


def _grid(title: str, rows: Rows) -> Grid:
    head = list(rows[0]) if rows else []
    return Grid(
        title, [key.replace("_", " ") for key in head], [[_cell(row[k]) for k in head] for row in rows]
    )


def _cell(text: str) -> str:
    if text.isdigit() and len(text) > 4:
        return f"{int(text):,}"
    number = _number(text)
    return text if number is None or text.isdigit() else f"{number:.4g}"


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _percent(text: str | None) -> float | None:
    share = _number(text)
    return None if share is None else 100 * share


def _interval(row: dict[str, str]) -> Interval | None:
    """Top-1 in percent with the ends of its 95 % interval; older tables do not hold them."""
    value, low, high = (_percent(row.get(key)) for key in ("top1", "top1_low", "top1_high"))
    return None if value is None or low is None or high is None else (value, low, high)


def _span(amounts: list[float | None], modes: list[str], form: str = ",.0f") -> str:
    """The least and the most of the amounts that are known, with their modes."""
    known = sorted((amount, mode) for amount, mode in zip(amounts, modes, strict=True) if amount is not None)
    if not known:
        return "none is known"
    (low, least), (high, most) = known[0], known[-1]
    if least == most:
        return f"{low:{form}} in {least}"
    times = f", {high / low:.3g} times as many" if low else ""
    return f"from {low:{form}} in {least} to {high:{form}} in {most}{times}"
