"""``report.html`` with everything inside it, ``assessment.json`` and CSV beside it, a summary in the
terminal."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from quantizable.assess import figures
from quantizable.assess.agreement import Interval
from quantizable.assess.study import Study
from quantizable.report.files import finite, write_json, write_text

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}.note{color:#a40}"""

Grid = tuple[str, list[str], list[list[str]]]
"""A table: title, head, rows."""


def percent(value: Interval) -> str:
    """``12.3 (11.0 to 13.6)``, in percent."""
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f} to {100 * value[2]:.2f})"


def tables(study: Study) -> Iterator[Grid]:
    """All tables of the report."""
    if study.shifts:
        names = study.shifts[0].agreement.names
        head = [
            "shift",
            "severity",
            *(f"accuracy {n}, %" for n in names),
            *(f"{n} differs, %" for n in names[:-1]),
        ]
        rows = []
        for one in study.shifts:
            found = one.agreement
            shares = [*(found.accuracy[n] for n in names), *(found.against_reference(n) for n in names[:-1])]
            rows.append([one.shift, str(one.severity or ""), *map(percent, shares)])
        yield (
            f"Agreement with mode {names[-1]} ({study.shifts[0].agreement.images} images, 95 % intervals)",
            head,
            rows,
        )
        clean = study.shifts[0].agreement
        kinds = ["right_to_wrong", "wrong_to_right", "wrong_to_other"]
        yield (
            "Flips on clean images",
            ["mode", *(kind.replace("_", " ") for kind in kinds)],
            [[name, *(str(getattr(found, kind)) for kind in kinds)] for name, found in clean.flips.items()],
        )
        labels = study.class_names or tuple(
            str(i) for i in range(len(next(iter(clean.per_class.values()), [])))
        )
        yield (
            "Disagreement on clean images by class, %",
            ["class", *clean.per_class],
            [
                [label, *(percent(rates[i]) for rates in clean.per_class.values())]
                for i, label in enumerate(labels)
            ],
        )
    if study.indicators:
        rows = [
            [mode, name.replace("_", " "), str(q.inputs), percent(q.auroc), percent(q.aupr), percent(q.tnr95)]
            for mode, found in study.indicators.items()
            for name, q in found.items()
        ]
        head = ["mode", "indicator", "inputs", "AUROC, %", "AUPR, %", "TNR at 95 % TPR, %"]
        yield "Indicators over all shifts: disagreeing inputs against as many others", head, rows
    if study.cascade:
        head = ["threshold", "escalated, %", "accuracy, %", "differs from reference, %", "10⁹ bit operations"]
        rows = [
            [f"{p.threshold:.4g}", f"{100 * p.escalated:.1f}", f"{100 * p.accuracy:.2f}",
             f"{100 * p.disagreement:.2f}", f"{p.bops / 1e9:.3f}"] for p in study.cascade
        ]  # fmt: skip
        yield "Cascade by margin, on the half of the images that did not set the threshold", head, rows
    if study.repairs:
        head = [
            "mode",
            "trained on",
            "test images",
            "before",
            "persisting",
            "new",
            "accuracy before, after, %",
        ]
        rows = [
            [mode, str(r.trained_on), str(r.images), str(r.before), str(r.persisting), str(r.new),
             ", ".join(f"{100 * a:.2f}" for a in r.accuracy)] for mode, r in study.repairs.items()
        ]  # fmt: skip
        yield "Repair", head, rows
    if study.rows:
        head = ["pair", "searcher", "constraint", "queries a seed", "seeds", "found, %", "median queries"]
        rows = [
            [r.pair, r.searcher + ("" if r.complete else " (interrupted)"), r.constraint, str(r.budget),
            str(r.seeds),
             percent(r.success), "" if r.queries is None else f"{r.queries:g}"] for r in study.rows
        ]  # fmt: skip
        yield "Searches for disagreements", head, rows


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


def _html_table(grid: Grid) -> str:
    title, head, rows = grid
    line = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{line}</tr>{body}</table>\n"


def _html_picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">\n'


def html(study: Study) -> str:
    """The report as one page without references to anything outside it."""
    notes = [] if study.complete else ["Interrupted: this is what was found until then."]
    notes += [f"Not computed: {what}: {why}" for what, why in study.skipped.items()]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(study.title)}</title>",
        f"<style>{STYLE}</style><h1>{escape(study.title)}</h1>\n",
        *(f"<p class=note>{escape(note)}</p>\n" for note in notes),
        *(_html_picture(figure) for figure in pictures(study)),
        *(_html_table(grid) for grid in tables(study)),
    ]
    return "".join(parts) + "</html>\n"


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def write_report(folder: Path, study: Study) -> list[Path]:
    """Write the report; the files, of which ``report.html`` is the first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.html", html(study))
    write_json(folder / "assessment.json", finite(study.plain()))  # a threshold may be infinite
    written = [folder / "report.html", folder / "assessment.json"]
    if study.shifts:
        names = study.shifts[0].agreement.names
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
                for i, a in enumerate(names) for j, b in enumerate(names) if i < j
            ]  # fmt: skip
        write_text(folder / "agreement.csv", _csv(rows))
        written.append(folder / "agreement.csv")
    if study.rows:
        head = [
            "pair",
            "searcher",
            "constraint",
            "budget",
            "seeds",
            "success",
            "low",
            "high",
            "median_queries",
        ]
        listed = [
            [r.pair, r.searcher, r.constraint, r.budget, r.seeds, *r.success, r.queries] for r in study.rows
        ]
        write_text(folder / "search.csv", _csv([head, *listed]))
        written.append(folder / "search.csv")
    if study.guard is not None:
        study.guard.save(folder / "guard.json")
        written.append(folder / "guard.json")
    return written


def print_summary(study: Study) -> None:
    """The tables in the terminal."""
    console = Console()
    for title, head, rows in tables(study):
        table = Table(*head, title=title)
        for row in rows:
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
            for title, head, rows in tables(study):
                run.log({title.partition(" (")[0]: wandb.Table(columns=[*head], data=rows)})
    except wandb.errors.Error as error:
        raise OSError(
            f"W&B did not take the tables ({error}); log in with: wandb login, or set WANDB_MODE=offline"
        ) from error
