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
    inputs = found.get("inputs", "images")
    if found["shifts"]:
        clean = found["shifts"][0]
        yield _by_shift(found["shifts"], inputs)
        yield _flips(clean, inputs)
        yield _by_class(clean, inputs, found.get("class_names") or ())
    if found.get("examples"):
        yield _examples(found["examples"], found.get("class_names") or ())
    if found["indicators"]:
        yield _indicators(found["indicators"])
    if found["cascade"]:
        yield _cascade(found["cascade"], inputs)
    if found["repairs"]:
        yield _repairs(found["repairs"], inputs)
    if found["search"]:
        yield _searches(found["search"])
    if found.get("proofs"):
        yield _proofs(found["proofs"])


def _by_shift(shifts: Sequence[Mapping[str, Any]], inputs: str) -> Grid:
    names = shifts[0]["names"]
    head = ["shift", "severity"]
    head += [f"accuracy {n}, %" for n in names] + [f"{n} differs, %" for n in names[:-1]]
    rows = []
    for one in shifts:
        differs = [one["disagreement"][row][-1] for row in range(len(names) - 1)]
        shares = [*(one["accuracy"][n] for n in names), *differs]
        rows.append([one["shift"], str(one["severity"] or ""), *map(percent, shares)])
    title = f"Agreement with mode {names[-1]} ({shifts[0]['images']} {inputs}, 95 % intervals)"
    return Grid(title, head, rows)


def _flips(clean: Mapping[str, Any], inputs: str) -> Grid:
    kinds = ["right_to_wrong", "wrong_to_right", "wrong_to_other"]
    head = ["mode", *(kind.replace("_", " ") for kind in kinds)]
    rows = [[name, *(str(found[kind]) for kind in kinds)] for name, found in clean["flips"].items()]
    return Grid(f"Flips on clean {inputs}", head, rows)


def _by_class(clean: Mapping[str, Any], inputs: str, class_names: Sequence[str]) -> Grid:
    per_class = clean["per_class"]
    count = len(next(iter(per_class.values()), []))
    labels = class_names or tuple(str(i) for i in range(count))
    rows = [[label, *(percent(rates[i]) for rates in per_class.values())] for i, label in enumerate(labels)]
    return Grid(f"Disagreement on clean {inputs} by class, %", ["class", *per_class], rows)


def _examples(examples: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Grid:
    def named(label: int) -> str:
        return class_names[label] if label < len(class_names) else str(label)

    head = ["shift", "mode", "text", "the reference's answer", "the mode's"]
    rows = [
        [f"{one['shift']} {one['severity'] or ''}".strip(), one["mode"], one["text"],
         *map(named, one["answers"])] for one in examples
    ]  # fmt: skip
    return Grid("Texts on which modes disagree", head, rows)


def _indicators(indicators: Mapping[str, Any]) -> Grid:
    head = ["mode", "indicator", "inputs", "AUROC, %", "AUPR, %", "TNR at 95 % TPR, %"]
    rows = [
        [mode, name.replace("_", " "), str(q["inputs"]), *(percent(q[k]) for k in ("auroc", "aupr", "tnr95"))]
        for mode, found in indicators.items()
        for name, q in found.items()
    ]
    return Grid("Indicators over all shifts: disagreeing inputs against as many others", head, rows)


def _cascade(points: Sequence[Mapping[str, Any]], inputs: str) -> Grid:
    head = ["threshold", "escalated, %", "accuracy, %", "differs from reference, %", "10⁹ bit operations"]
    rows = [
        # JSON has no infinity: the threshold that nothing reaches
        ["inf" if p["threshold"] is None else f"{p['threshold']:.4g}", f"{100 * p['escalated']:.1f}",
         f"{100 * p['accuracy']:.2f}", f"{100 * p['disagreement']:.2f}", _billions(p["bops"])]
        for p in points
    ]  # fmt: skip
    title = f"Cascade by margin, on the half of the {inputs} that did not set the threshold"
    return Grid(title, head, rows)


def _repairs(repairs: Mapping[str, Any], inputs: str) -> Grid:
    head = ["mode", "trained on", f"test {inputs}", "before", "persisting", "new"]
    head += ["accuracy before, after, %"]
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


def _proofs(found: Mapping[str, Mapping[str, int]]) -> Grid:
    rows = [
        [pair, *(str(counts[key]) for key in ("refuted", "proved", "unknown"))]
        for pair, counts in found.items()
    ]
    return Grid("Seeds under the L-infinity limit", ["pair", "refuted", "proved", "open"], rows)


def _billions(operations: float) -> str:
    """Three decimals; of a small network three digits."""
    value = operations / 1e9
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"
