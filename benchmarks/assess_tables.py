"""The tables of docs/assessment.md as Markdown, from what benchmarks/assess.py kept.

python benchmarks/assess_tables.py benchmarks/results/assess_cifar10.json
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

Row = list[str]


def percent(value: list[float], interval: bool = True) -> str:
    """``12.3 (11.0 to 13.6)``."""
    rate, low, high = (100 * part for part in value)
    return f"{rate:.1f} ({low:.1f} to {high:.1f})" if interval else f"{rate:.1f}"


def by_severity(shifts: list[dict[str, Any]]) -> Iterator[Row]:
    """Means over the corruptions."""
    modes = list(shifts[0]["accuracy"])
    yield ["severity", *(f"accuracy {m}" for m in modes), *(f"{m} differs" for m in modes[:-1])]
    for level in sorted({one["severity"] for one in shifts}):
        some = [one for one in shifts if one["severity"] == level]
        values = [mean(one["accuracy"][m][0] for one in some) for m in modes]
        values += [mean(one["differs"][m][0] for one in some) for m in modes[:-1]]
        yield [str(level or "clean"), *(f"{100 * value:.1f}" for value in values)]


def by_corruption(shifts: list[dict[str, Any]]) -> Iterator[Row]:
    """Disagreement of every mode at the severities, in one cell."""
    modes = list(shifts[0]["differs"])
    yield ["corruption", *(f"mode {m}" for m in modes)]
    for name in dict.fromkeys(one["shift"] for one in shifts):
        some = [one for one in shifts if one["shift"] == name]
        cells = [" ".join(percent(one["differs"][m], False) for one in some) for m in modes]
        yield [name.replace("_", " "), *cells]


def indicators(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[Row]:
    """Four indicators of every mode."""
    yield ["mode", "indicator", "AUROC", "AUPR", "TNR at 95 % TPR", "disagreeing inputs"]
    for mode, qualities in found.items():
        for name, q in qualities.items():
            measured = [percent(q[key]) for key in ("auroc", "aupr", "tnr95")]
            yield [mode, name.replace("_", " "), *measured, str(q["inputs"])]


def cascade(points: list[dict[str, float]], bops: dict[str, float]) -> Iterator[Row]:
    """Escalated, accuracy, disagreement, cost as a share of the highest mode below float."""
    yield ["escalated", "accuracy", "differs from the reference", "10⁹ bit operations"]
    for p in points:
        shares = [f"{100 * p[key]:.1f}" for key in ("escalated", "accuracy", "disagreement")]
        yield [*shares, f"{p['bops'] / 1e9:.2f}"]


def searches(rows: list[dict[str, Any]]) -> Iterator[Row]:
    """A line per constraint and searcher, a column per pair."""
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    yield ["limit", "searcher", *pairs]
    found = {(row["constraint"], row["searcher"], row["pair"]): row for row in rows}
    for limit, name in dict.fromkeys((row["constraint"], row["searcher"]) for row in rows):
        cells = [found.get((limit, name, pair)) for pair in pairs]
        yield [limit, name, *(percent(row["success"]) if row else "" for row in cells)]


def markdown(rows: Iterator[Row]) -> str:
    """A table, its first row the head."""
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    kept = json.loads(parser.parse_args().results.read_text())
    print(f"`{kept['machine']['command']}`, {kept['machine']['date']}\n")
    if any(one["severity"] for one in kept["shifts"]):
        print(markdown(by_severity(kept["shifts"])))
        print(markdown(by_corruption(kept["shifts"])))
    if kept["indicators"]:
        print(markdown(indicators(kept["indicators"])))
    if kept["cascade"]:
        print(markdown(cascade(kept["cascade"], kept["bops_per_image"])))
    if kept["search"]:
        print(markdown(searches(kept["search"])))


if __name__ == "__main__":
    main()
