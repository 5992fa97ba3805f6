"""The tables of an assessment, for the page, the terminal and Weights & Biases: from ``assessment.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantizable.report.page import Grid


def percent(value: Sequence[float]) -> str:
    """``12.3 (11.0 to 13.6)``, in percent."""
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f} to {100 * value[2]:.2f})"


def tables(found: Mapping[str, Any]) -> Iterator[Grid]:
    """All tables: those of what was computed. Cells are strings.

    Args:
        found: what ``assessment.json`` holds.
    """
    if found["shifts"]:
        clean = found["shifts"][0]
        yield _by_shift(found["shifts"])
        yield _flips(clean)
        yield _by_class(clean, found.get("class_names") or ())
    if found["indicators"]:
        yield _indicators(found["indicators"])
    if found["cascade"]:
        yield _cascade(found["cascade"])
    if found["repairs"]:
        yield _repairs(found["repairs"])
    if found["search"]:
        yield _searches(found["search"])


def _by_shift(shifts: Sequence[Mapping[str, Any]]) -> Grid:
    names = shifts[0]["names"]
    head = ["shift", "severity"]
    head += [f"accuracy {n}, %" for n in names] + [f"{n} differs, %" for n in names[:-1]]
    rows = []
    for one in shifts:
        differs = [one["disagreement"][row][-1] for row in range(len(names) - 1)]
        shares = [*(one["accuracy"][n] for n in names), *differs]
        rows.append([one["shift"], str(one["severity"] or ""), *map(percent, shares)])
    return Grid(f"Agreement with mode {names[-1]} ({shifts[0]['images']} images, 95 % intervals)", head, rows)


def _flips(clean: Mapping[str, Any]) -> Grid:
    kinds = ["right_to_wrong", "wrong_to_right", "wrong_to_other"]
    head = ["mode", *(kind.replace("_", " ") for kind in kinds)]
    rows = [[name, *(str(found[kind]) for kind in kinds)] for name, found in clean["flips"].items()]
    return Grid("Flips on clean images", head, rows)


def _by_class(clean: Mapping[str, Any], class_names: Sequence[str]) -> Grid:
    per_class = clean["per_class"]
    count = len(next(iter(per_class.values()), []))
    labels = class_names or tuple(str(i) for i in range(count))
    rows = [[label, *(percent(rates[i]) for rates in per_class.values())] for i, label in enumerate(labels)]
    return Grid("Disagreement on clean images by class, %", ["class", *per_class], rows)


def _indicators(indicators: Mapping[str, Any]) -> Grid:
    head = ["mode", "indicator", "inputs", "AUROC, %", "AUPR, %", "TNR at 95 % TPR, %"]
    rows = [
        [mode, name.replace("_", " "), str(q["inputs"]), *(percent(q[k]) for k in ("auroc", "aupr", "tnr95"))]
        for mode, found in indicators.items()
        for name, q in found.items()
    ]
    return Grid("Indicators over all shifts: disagreeing inputs against as many others", head, rows)


def _cascade(points: Sequence[Mapping[str, Any]]) -> Grid:
    head = ["threshold", "escalated, %", "accuracy, %", "differs from reference, %", "10⁹ bit operations"]
    rows = [
        # JSON has no infinity: the threshold that nothing reaches
        ["inf" if p["threshold"] is None else f"{p['threshold']:.4g}", f"{100 * p['escalated']:.1f}",
         f"{100 * p['accuracy']:.2f}", f"{100 * p['disagreement']:.2f}", f"{p['bops'] / 1e9:.3f}"]
        for p in points
    ]  # fmt: skip
    return Grid("Cascade by margin, on the half of the images that did not set the threshold", head, rows)


def _repairs(repairs: Mapping[str, Any]) -> Grid:
    head = ["mode", "trained on", "test images", "before", "persisting", "new", "accuracy before, after, %"]
    rows = [
        [mode, *(str(r[key]) for key in ("trained_on", "images", "before", "persisting", "new")),
         ", ".join(f"{100 * a:.2f}" for a in r["accuracy"])] for mode, r in repairs.items()
    ]  # fmt: skip
    return Grid("Repair", head, rows)


def _searches(found: Sequence[Mapping[str, Any]]) -> Grid:
    head = ["pair", "searcher", "constraint", "queries a seed", "seeds", "found, %", "median queries"]
    rows = [
        [r["pair"], r["searcher"] + ("" if r["complete"] else " (interrupted)"), r["constraint"],
         str(r["budget"]), str(r["seeds"]), percent(r["success"]),
         "" if r["queries"] is None else f"{r['queries']:g}"] for r in found
    ]  # fmt: skip
    return Grid("Searches for disagreements", head, rows)
