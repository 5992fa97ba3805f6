"""The Pareto front of searches: table, CSV and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantizable.report.files import write_text
from quantizable.report.plots import save_figure
from quantizable.search.problem import Outcome, Trial


def pareto(trials: Sequence[Trial], objective: str) -> list[Trial]:
    """The trials that no other one beats in score at the same or a lower cost, from cheap to expensive."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.cost, -t.value(objective))):
        if not front or trial.value(objective) > front[-1].value(objective):
            front.append(trial)
    return front


def print_outcomes(outcomes: Sequence[Outcome], objective: str) -> None:
    """Print the best of each method and what it took, and the front of all that was evaluated."""
    names = list(outcomes[0].best.costs)
    table = Table("method", "budget", *names, objective, "evaluations", "seconds")
    for o in outcomes:
        costs = (f"{o.best.costs[name]:.4g}" for name in names)
        best = *costs, f"{o.best.score[objective]:.4f}"
        table.add_row(o.method, str(o.budget), *best, str(len(o.trials)), f"{o.seconds:.1f}")
    Console().print(table)
    cost = outcomes[0].budget.cost
    front = Table(f"cost, {cost.name}", objective, "found by", title="Pareto front")
    found_by = {t.genome: o.method for o in reversed(outcomes) for t in o.trials}
    for trial in pareto([t for o in outcomes for t in o.trials], objective):
        front.add_row(f"{trial.cost:.4g}", f"{trial.score[objective]:.4f}", found_by[trial.genome])
    Console().print(front)


def write_front(folder: Path, outcomes: Sequence[Outcome], objective: str) -> None:
    """``front.csv`` (every trial, and whether it is on a front) and ``front.png`` in ``folder``."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(o.method for o in outcomes))
    trials = {name: [t for o in outcomes if o.method == name for t in o.trials] for name in names}
    fronts = {name: pareto(trials[name], objective) for name in names}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = sorted({key for found in trials.values() for t in found for key in t.score} - {"seconds"})
    costs = list(outcomes[0].best.costs)
    writer.writerow(["method", *costs, *keys, "on_front", "genome"])
    for name in names:
        best = {t.genome for t in fronts[name]}
        for genome, t in {t.genome: t for t in trials[name]}.items():
            digits = "".join(map(str, genome))
            row = [*(t.costs[k] for k in costs), *(t.score.get(k, "") for k in keys)]
            writer.writerow([name, *row, int(genome in best), digits])
    write_text(folder / "front.csv", text.getvalue())

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = [(t.cost, t.score[objective]) for t in fronts[name]]
        if not points:
            continue
        axes.step(*zip(*points, strict=True), "o-", where="post", label=name, alpha=0.8)
    for most in sorted({o.budget.limits[0].most for o in outcomes}):
        axes.axvline(most, color="grey", lw=0.8, ls=":")
    axes.set_xlabel(outcomes[0].budget.cost.unit)
    axes.set_ylabel(objective)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, folder / "front.png")
