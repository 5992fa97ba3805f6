"""``report.html`` with everything inside it, ``assessment.json`` and CSV beside it, a summary in the
terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from quantizable.assess import figures
from quantizable.assess.study import Study
from quantizable.assess.tables import tables
from quantizable.report.files import finite, write_json, write_text
from quantizable.report.page import render_page
from quantizable.report.plots import as_png


def pictures(study: Study) -> Iterator[Figure]:
    """All figures of the report."""
    if study.shifts:
        yield figures.matrix(study.shifts[0].agreement, "clean images, every mode against every other")
        if (curve := figures.severity(study.shifts)) is not None:
            yield curve
        most = max(study.shifts, key=lambda one: one.agreement.against_reference(one.agreement.names[0])[0])
        for one in {id(one): one for one in (study.shifts[0], most)}.values():
            for mode, (inputs, answers) in one.examples.items():
                title = f"{one.shift} {one.severity or 'images'}: answers of the reference and of mode {mode}"
                if (figure := figures.examples(inputs, answers, study.class_names, title)) is not None:
                    yield figure
        for mode in study.indicators:
            yield figures.roc(study.shifts, mode)
    if study.cascade:
        yield figures.cascade_curve(study.cascade, study.bops)
    for row, found in zip(study.rows, study.found, strict=True):
        title = f"{row.pair}, {row.searcher}: answers of the reference and of the low mode"
        hits = found.success
        figure = figures.examples(found.inputs[hits], found.answers[hits], study.class_names, title)
        if figure is not None:
            yield figure


def html(study: Study) -> str:
    """The report as one page without references to anything outside it."""
    notes = [] if study.complete else ["Interrupted: this is what was found until then."]
    notes += [f"Not computed: {what}: {why}" for what, why in study.skipped.items()]
    return render_page(study.title, tables(study), map(as_png, pictures(study)), notes)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _agreement_rows(study: Study) -> list[list[Any]]:
    head = [
        "shift",
        "severity",
        "a",
        "b",
        "disagreement",
        "low",
        "high",
        "distance",
        "accuracy_a",
        "accuracy_b",
    ]
    rows: list[list[Any]] = [head]
    for one in study.shifts:
        found = one.agreement
        rows += [
            [one.shift, one.severity, a, b, *found.disagreement[i][j], found.distance[i][j][0],
             found.accuracy[a][0], found.accuracy[b][0]]
            for i, a in enumerate(found.names) for j, b in enumerate(found.names) if i < j
        ]  # fmt: skip
    return rows


def _search_rows(study: Study) -> list[list[Any]]:
    head = ["pair", "searcher", "constraint", "budget", "seeds", "success", "low", "high", "median_queries"]
    rows = [[r.pair, r.searcher, r.constraint, r.budget, r.seeds, *r.success, r.queries] for r in study.rows]
    return [head, *rows]


def write_report(folder: Path, study: Study) -> list[Path]:
    """Write the report; the files, of which ``report.html`` is the first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.html", html(study))
    write_json(folder / "assessment.json", finite(study.as_dict()))  # a threshold may be infinite
    written = [folder / "report.html", folder / "assessment.json"]
    for name, rows in (("agreement.csv", _agreement_rows(study)), ("search.csv", _search_rows(study))):
        if len(rows) > 1:
            write_text(folder / name, _csv(rows))
            written.append(folder / name)
    if study.guard is not None:
        study.guard.save(folder / "guard.json")
        written.append(folder / "guard.json")
    return written


def print_summary(study: Study) -> None:
    """The tables in the terminal."""
    console = Console()
    for grid in tables(study):
        table = Table(*grid.head, title=grid.title)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for what, why in study.skipped.items():
        console.print(f"not computed: {what}: {why}")


def log_wandb(study: Study, project: str, name: str) -> None:
    """Send every table to Weights & Biases as a ``wandb.Table``; offline if ``WANDB_MODE`` says so.

    Raises:
        OSError: W&B did not take them; nobody is logged in, say.
    """
    import wandb

    try:
        with wandb.init(project=project, name=name, job_type="assess") as run:
            for grid in tables(study):
                run.log({grid.title.partition(" (")[0]: wandb.Table(columns=[*grid.head], data=[*grid.rows])})
    except wandb.errors.Error as error:
        raise OSError(
            f"W&B did not take the tables ({error}); log in with: wandb login, or set WANDB_MODE=offline"
        ) from error
