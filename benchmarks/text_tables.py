"""The tables of docs/results/text.md, and what they say of the four findings of the published study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student
from steps import table

Cell = dict[str, Any]
Row = dict[str, Any]
LOWS = ("2", "4", "8")
STRATEGIES = ("standard", "mixup", "adversarial", "alone", "switchable")
PUBLISHED = STRATEGIES[:4]  # those of the study; "alone" is its quantization-aware training
SEVERITY = "3"


def spread(values: Sequence[float], unit: float = 100) -> str:
    """Mean and standard deviation over cells."""
    if not values:
        return ""
    deviation = f" ± {unit * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{unit * mean(values):.2f}{deviation}"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval (Student); infinite ends of a single value."""
    if len(values) < 2:
        return values[0], float("-inf"), float("inf")
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean(values), mean(values) - half, mean(values) + half


def shown(values: Sequence[float], unit: float = 100) -> str:
    """``1.20 (0.40 to 2.00)``; of one value it alone."""
    value, low, high = interval(values)
    if len(values) == 1:
        return f"{unit * value:.2f}"
    return f"{unit * value:.2f} ({unit * low:.2f} to {unit * high:.2f})"


def part(cell: Cell, strategy: str, mode: str) -> tuple[dict[str, Any], str] | None:
    """The measured sets of a strategy and the name of a mode in them; None where it was not trained."""
    name = f"{mode} alone" if strategy == "alone" else strategy
    found = cell["strategies"].get(name)
    return None if found is None else (found["sets"], name if strategy == "alone" else mode)


def accuracy(cell: Cell, strategy: str, mode: str, which: str = "test") -> float | None:
    """The accuracy of a mode on a set."""
    found = part(cell, strategy, mode)
    return None if found is None else found[0][which]["accuracy"][found[1]]


def differs(cell: Cell, strategy: str, mode: str, sets: Sequence[str]) -> float | None:
    """How often a mode differs from the float network, as a mean over sets."""
    found = part(cell, strategy, mode)
    if found is None or not sets:
        return None
    return mean(found[0][which]["differs"][found[1]] for which in sets)


def natural(cell: Cell) -> list[str]:
    """Names of the natural shifts."""
    return [name for name in cell["strategies"]["standard"]["sets"] if " " not in name and name != "test"]


def synthetic(cell: Cell, severity: str = SEVERITY) -> list[str]:
    """Names of the synthetic shifts of a severity."""
    return [name for name in cell["strategies"]["standard"]["sets"] if name.endswith(f" {severity}")]


def groups(cells: Sequence[Cell]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Networks and data sets with their seeds."""
    for model, data in dict.fromkeys((cell["model"], cell["data"]) for cell in cells):
        yield model, data, [cell for cell in cells if (cell["model"], cell["data"]) == (model, data)]


def known(values: Sequence[float | None]) -> list[float]:
    """Those that were measured."""
    return [value for value in values if value is not None]


# -- tables ----------------------------------------------------------------------------------------------


def accuracies(cells: Sequence[Cell]) -> Iterator[Row]:
    """Per mode, on the test texts."""
    for model, data, some in groups(cells):
        for mode in (*LOWS, "32"):
            row: Row = {"network": model, "data": data, "mode": mode}
            for name in ("switchable", "alone", "standard", "mixup", "adversarial"):
                row[name] = spread(known([accuracy(cell, name, mode) for cell in some]))
            pairs = [(accuracy(c, "switchable", mode), accuracy(c, "alone", mode)) for c in some]
            apart = [a - b for a, b in pairs if a is not None and b is not None]
            yield row | {"switchable - alone": shown(apart) if apart else ""}


def disagreements(cells: Sequence[Cell]) -> Iterator[Row]:
    """Means over networks, data sets and seeds."""
    some = [cell for cell in cells if natural(cell)]
    if not some:
        return
    columns = [["test"], *([name] for name in natural(some[0])), *([n] for n in synthetic(some[0]))]
    for mode in LOWS:
        for name in STRATEGIES:
            row: Row = {"mode": mode, "strategy": name}
            for sets in columns:
                row[sets[0]] = spread(known([differs(cell, name, mode, sets) for cell in some]))
            yield row


def by_severity(cells: Sequence[Cell]) -> Iterator[Row]:
    """Means over the synthetic shifts, the networks and the data sets, seed 0."""
    some = [cell for cell in cells if cell["seed"] == 0]
    for name in ("standard", "switchable"):
        for mode in LOWS if some else ():
            row: Row = {"strategy": name, "mode": mode}
            row["test"] = spread(known([differs(cell, name, mode, ["test"]) for cell in some]))
            for level in "12345":
                row[level] = spread(known([differs(c, name, mode, synthetic(c, level)) for c in some]))
            yield row


def indicators(cells: Sequence[Cell]) -> Iterator[Row]:
    """AUROC in %, by the number of classes."""
    kinds: dict[str, Callable[[Cell], bool]] = {
        "2": lambda cell: cell["data"] != "trec",
        "6 (TREC)": lambda cell: cell["data"] == "trec",
    }
    for classes, wanted in kinds.items():
        for name in ("standard", "switchable"):
            for mode in LOWS:
                found = [cell["strategies"][name]["indicators"].get(mode) for cell in cells if wanted(cell)]
                found = [one for one in found if one]
                if found:
                    values = {key: spread([one[key] for one in found]) for key in found[0]}
                    yield {"classes": classes, "strategy": name, "mode": mode, **values}


def cascades(cells: Sequence[Cell]) -> Iterator[Row]:
    """Of the switchable network, means over cells."""
    found = [cell["strategies"]["switchable"]["cascade"] for cell in cells]
    for name in found[0] if found else ():
        for number in range(len(found[0][name])):
            points = [one[name][number] for one in found]
            row: Row = {"cascade": name}
            for key in ("escalated", "accuracy", "disagreement"):
                row[f"{key}, %"] = spread([point[key] for point in points])
            yield row | {"10⁶ bit operations": spread([point["bops"] for point in points], 1e-6)}


def repairs(cells: Sequence[Cell]) -> Iterator[Row]:
    """Sums over cells of texts of the test sets."""
    for name in ("standard", "switchable"):
        for mode in LOWS:
            found = [cell["strategies"][name]["repair"][mode] for cell in cells]
            found = [one for one in found if "skipped" not in one]
            if found:
                row = {
                    key: sum(one[key] for one in found) for key in ("images", "before", "persisting", "new")
                }
                before, after = ([one["accuracy"][i] for one in found] for i in (0, 1))
                yield {
                    "strategy": name, "mode": mode, "cells": len(found), "texts": row["images"],
                    "before": row["before"], "persisting": row["persisting"], "new": row["new"],
                    "after": row["persisting"] + row["new"],
                    "accuracy before, %": f"{100 * mean(before):.2f}", "after, %": f"{100 * mean(after):.2f}",
                }  # fmt: skip


# -- findings --------------------------------------------------------------------------------------------


def most_stable(cells: Sequence[Cell]) -> Iterator[str]:
    """Finding 1: quantization-aware training is the most stable under shift."""
    some = [cell for cell in cells if natural(cell)]
    firsts: list[str] = []
    for cell in some:  # those that have all strategies of the study
        for mode in LOWS:
            found = {n: differs(cell, n, mode, natural(cell) + synthetic(cell)) for n in PUBLISHED}
            if None not in found.values():
                firsts.append(min(found, key=lambda name: found[name] or 0.0))
    counts = ", ".join(f"{name} in {firsts.count(name)}" for name in PUBLISHED)
    yield f"least disagreement in {len(firsts)} rows (cell, mode) with all four strategies: {counts}"
    for name in ("alone", "switchable"):
        for mode in LOWS:
            apart = [
                (differs(c, name, mode, natural(c) + synthetic(c)) or 0.0)
                - (differs(c, "standard", mode, natural(c) + synthetic(c)) or 0.0)
                for c in some
            ]
            yield f"{name} minus standard, mode {mode}, points of disagreement under shift: {shown(apart)}"


def grows(cells: Sequence[Cell]) -> Iterator[str]:
    """Finding 2: disagreements grow under shift."""
    kinds = {"natural": natural, "synthetic": synthetic}
    for name in STRATEGIES:
        for kind, sets in kinds.items():
            more = []  # of each cell its modes
            for cell in cells:
                pairs = [
                    (differs(cell, name, mode, ["test"]), differs(cell, name, mode, sets(cell)))
                    for mode in (LOWS if sets(cell) else ())
                ]
                more.append([b - a for a, b in pairs if a is not None and b is not None])
            if some := [mean(one) for one in more if one]:
                every = [value for one in more for value in one]
                yield (
                    f"{name}, {kind}: {shown(some)} points more than on the test texts; more in "
                    f"{sum(value > 0 for value in every)} of {len(every)} (cell, mode)"
                )


def best_indicator(cells: Sequence[Cell]) -> Iterator[str]:
    """Finding 3: the margin is the best indicator."""
    for classes, data in (("two", ("sst2", "reviews")), ("six", ("trec",))):
        apart: dict[str, list[float]] = {}
        for cell in cells:
            both = [cell["strategies"][name]["indicators"] for name in ("standard", "switchable")]
            found = [one for by_mode in both for one in by_mode.values()] if cell["data"] in data else []
            for other in ("gini", "least_confidence", "entropy") if found else ():
                apart.setdefault(other, []).append(mean(one["margin"] - one[other] for one in found))
        for other, values in apart.items():
            yield f"{classes} classes: AUROC of the margin minus that of {other}, points: {shown(values)}"


def repaired(cells: Sequence[Cell]) -> Iterator[str]:
    """Finding 4: retraining repairs some disagreements and creates new ones."""
    for name in ("standard", "switchable"):
        by_cell = [cell["strategies"][name]["repair"].values() for cell in cells]
        counted = [[one for one in some if "skipped" not in one] for some in by_cell]
        if found := [one for some in counted for one in some]:
            before, persist, new = (sum(one[k] for one in found) for k in ("before", "persisting", "new"))
            net = [
                mean((one["persisting"] + one["new"] - one["before"]) / one["images"] for one in some)
                for some in counted
                if some
            ]
            yield (
                f"{name}: of {before} disagreements {before - persist} are repaired, {new} are new; change "
                f"of the share, points: {shown(net)}"
            )


TABLES: dict[str, Callable[[Sequence[Cell]], Iterator[Row]]] = {
    "Accuracy on the test texts, %": accuracies,
    "Disagreement with the float network, %": disagreements,
    "Disagreement by severity of synthetic shifts, %": by_severity,
    "AUROC of the indicators, %": indicators,
    "Cascade of the switchable network": cascades,
    "Repair on held-out texts, counted on the test texts": repairs,
}
FINDINGS: dict[str, Callable[[Sequence[Cell]], Iterator[str]]] = {
    "Quantization-aware training is the most stable under shift": most_stable,
    "Disagreements grow under shift": grows,
    "The margin is the best indicator": best_indicator,
    "Retraining repairs some disagreements and creates new ones": repaired,
}


def report(cells: Sequence[Cell]) -> str:
    """Everything that is measured, as Markdown."""
    if not cells:
        return "Nothing is measured yet.\n"
    made = cells[0]["machine"]
    names = ", ".join(f"{model} on {data} ({len(some)})" for model, data, some in groups(cells))
    said = [
        f"`{made['command']}`, {made['date']}, torch {made['torch']}, {made['cpu']}, one thread. "
        f"Cells, with the number of seeds: {names}. Figures are means ± standard deviations over seeds or, "
        "where no network is named, over cells; in parentheses are 95 % intervals (Student, over cells)."
    ]
    for title, make in TABLES.items():
        if rows := list(make(cells)):
            said.append(f"### {title}\n\n{table(rows)}")
    for title, say in FINDINGS.items():
        said.append(f"### {title}?\n\n" + "\n".join(f"- {line}" for line in say(cells)))
    return "\n\n".join(part.strip() for part in said) + "\n"


def write(path: Path, cells: Sequence[Cell]) -> None:
    """Put the report between ``<!-- text study -->`` and ``<!-- end -->`` of a Markdown file."""
    start, end = "<!-- text study -->\n", "<!-- end -->"
    before, _, rest = path.read_text().partition(start)
    path.write_text(f"{before}{start}\n{report(cells)}\n{end}{rest.partition(end)[2]}")
