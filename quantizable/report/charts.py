"""Charts of a page, as plotly figures in plain types, and what they do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from scipy.stats import binomtest

COLORS = ("#1f5fbf", "#d9730d", "#2b8a3e", "#b5179e", "#c1121f", "#6b4c9a", "#007f8b", "#8a6d00")
NAMED = 6  # overlaps that a warning lists
Interval = tuple[float, float, float]
"""An estimate with the ends of its 95 % interval: (value, low, high)."""


def axes(x: str, y: str, **more: Any) -> dict[str, Any]:
    """A layout with titles at both axes."""
    shared = {"automargin": True, "gridcolor": "#e8ebf0", "zeroline": False}
    base = {
        "xaxis": {"title": {"text": x}, **shared},
        "yaxis": {"title": {"text": y}, **shared},
        "plot_bgcolor": "#fff",
        "hovermode": "closest",
    }
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), dict) else value  # type: ignore[dict-item]
    return base


def line(
    name: str, x: Sequence[Any], y: Sequence[float | None], number: int = 0, **more: Any
) -> dict[str, Any]:
    """A line with a marker at each point: a curve of one point is seen, too."""
    color = COLORS[number % len(COLORS)]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": color},
        "marker": {"color": color},
        **more,
    }


def spread(intervals: Sequence[Interval | None]) -> dict[str, Any]:
    """Error bars of intervals; none where an interval is not known."""
    if not any(intervals):
        return {}
    above = [one[2] - one[0] if one else 0.0 for one in intervals]
    below = [one[0] - one[1] if one else 0.0 for one in intervals]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return {"error_y": {**bars, "visible": True, "thickness": 1.2, "width": 4}}


def wilson(share: float, count: int) -> Interval:
    """A share of ``count`` trials with its 95 % interval (Wilson, 1927)."""
    found = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return share, float(found.low), float(found.high)


def overlapping(named: Iterable[tuple[str, Interval | None]]) -> list[tuple[str, str]]:
    """The neighbors, ordered by value, whose intervals overlap."""
    known = sorted(((name, one) for name, one in named if one is not None), key=lambda pair: pair[1][0])
    return [
        (low, high)
        for (low, a), (high, b) in pairwise(known)
        if a[2] >= b[1]  # the lower one's end reaches the higher one's beginning
    ]


def overlap_warning(named: Iterable[tuple[str, Interval | None]], what: str) -> str:
    """A sentence for the neighbors whose intervals overlap; empty where none do."""
    return overlap_sentence([(low, high, "") for low, high in overlapping(named)], what)


def overlap_sentence(pairs: Sequence[tuple[str, str, str]], what: str) -> str:
    """A sentence for pairs whose intervals overlap; empty where there are none.

    Args:
        pairs: the two, and where: pairs in one place stand together.
        what: is not certain of them.
    """
    if not pairs:
        return ""
    places: dict[str, list[str]] = {}
    for low, high, place in pairs[:NAMED]:
        places.setdefault(place, []).append(f"{low} and {high}")
    listed = "; ".join(
        f"{place}: {', '.join(held)}" if place else "; ".join(held) for place, held in places.items()
    )
    if len(pairs) > NAMED:
        listed += f"; and {len(pairs) - NAMED} pairs more"
    return f"95 % intervals overlap: {listed}. Which of them {what} is not certain from these data."


def heatmap(names: Sequence[str], rows: Sequence[Sequence[float]], unit: str) -> dict[str, Any]:
    """Every mode against every other, with the numbers in the cells."""
    return {
        "type": "heatmap",
        "x": [f"mode {name}" for name in names],
        "y": [f"mode {name}" for name in names],
        "z": [list(row) for row in rows],
        "texttemplate": "%{z:.3g}",
        "colorscale": "Blues",
        "reversescale": True,
        "colorbar": {"title": {"text": unit}},
        "hovertemplate": "%{y} against %{x}: %{z:.4g}<extra></extra>",
    }


def bars(name: str, x: Sequence[str], y: Sequence[float | None], number: int = 0) -> dict[str, Any]:
    """A bar for each word of ``x``."""
    color = COLORS[number % len(COLORS)]
    return {"type": "bar", "name": name, "x": list(x), "y": list(y), "marker": {"color": color}}


def by_name(layout: Mapping[str, Any]) -> dict[str, Any]:
    """The layout with an x axis of words in their order: modes are no numbers, 32 is not 4 times 8 away."""
    return {**layout, "xaxis": {**layout["xaxis"], "type": "category"}}
