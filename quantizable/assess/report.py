"""``assessment.json``, CSV and pictures, the page that is made of them, and a summary in the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from quantizable.assess import figures
from quantizable.assess.study import Study
from quantizable.report.agreement_tables import tables
from quantizable.report.build import write_page
from quantizable.report.files import finite, make_folder, write_json, write_text
from quantizable.report.plots import save_figure


def pictures(study: Study) -> Iterator[tuple[str, str, Figure]]:
    """Images on which modes disagree: a file name, a sentence that says what is shown, the figure."""
    for one in () if study.vocabulary else study.shown():  # texts are shown in a table
        what = f"{one.shift} {one.severity or 'images'}"
        for mode, (inputs, answers) in one.examples.items():
            says = f"Images on which mode {mode} disagrees ({what}), the reference's answer above its own."
            if (figure := figures.examples(inputs, answers, study.class_names)) is not None:
                yield f"examples-{one.shift}-{one.severity}-{mode}", says, figure
    for number, (row, found) in enumerate(zip(study.rows, study.found, strict=True)):
        hits = found.success
        figure = figures.examples(found.inputs[hits], found.answers[hits], study.class_names)
        if figure is not None:
            how = f"{row.searcher}, {row.pair}, {row.constraint}"
            says = f"Found by a search ({how}), the reference's answer above that of the low mode."
            yield f"found-{number}", says, figure


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
    """Write what was found, and from these files ``report.html``; the files that were written."""
    make_folder(folder)
    shown: dict[str, str] = {}
    for name, says, figure in pictures(study):
        file = re.sub(r"[^\w.-]", "_", name) + ".png"
        save_figure(figure, folder / file)
        shown[file] = says
    about = study.as_dict() | {"pictures": shown}
    write_json(folder / "assessment.json", finite(about))  # a threshold may be infinite
    written = [folder / "assessment.json"]
    for name, rows in (("agreement.csv", _agreement_rows(study)), ("search.csv", _search_rows(study))):
        if len(rows) > 1:
            write_text(folder / name, _csv(rows))
            written.append(folder / name)
    if study.guard is not None:
        study.guard.save(folder / "guard.json")
        written.append(folder / "guard.json")
    for name in ("agreement.csv", "search.csv", "guard.json"):
        if folder / name not in written:  # of an earlier assessment, another network's perhaps
            (folder / name).unlink(missing_ok=True)
    if write_page(folder / "report.html", study.title, {}, [folder]):
        written.insert(0, folder / "report.html")
    return written


def print_summary(study: Study) -> None:
    """The tables in the terminal."""
    console = Console()
    for grid in tables(study.as_dict()):
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
            for grid in tables(study.as_dict()):
                run.log({grid.title.partition(" (")[0]: wandb.Table(columns=[*grid.head], data=[*grid.rows])})
    except wandb.errors.Error as error:
        raise OSError(
            f"W&B did not take the tables ({error}); log in with: wandb login, or set WANDB_MODE=offline"
        ) from error
