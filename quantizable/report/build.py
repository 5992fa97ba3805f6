"""``quantizable report RUN...``: one page of everything that the folders of runs hold."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantizable.report.files import check_target, make_folder, write_text
from quantizable.report.found import Found, find
from quantizable.report.groups import joined
from quantizable.report.page import plotly_script, render_page
from quantizable.report.runs import Run, left_out, split_names
from quantizable.report.tab_agreement import agreement
from quantizable.report.tab_certificates import certificates
from quantizable.report.tab_cost import cost
from quantizable.report.tab_modes import modes
from quantizable.report.tab_training import training

TABS = (training, modes, cost, agreement, certificates)
ADDS = {  # what fills a tab that is not there
    "cost": "quantizable cost CHECKPOINT --output RUN/cost",
    "agreement": "quantizable assess CHECKPOINT --output RUN/assessment",
    "certificates": "quantizable verify CHECKPOINT ... --output RUN/verify",
}


def run(args: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        ImportError: plotly is not installed.
    """
    plotly_script()
    make_folder(args.output.parent)
    check_target(args.output)
    named, folders = split_names(args.runs)
    found, rest = find(folders, named)
    found.runs = joined(found.runs, rest)
    given = {path.resolve() for paths in (folders, *named.values()) for path in paths}
    title = next(iter(given)).name if len(given) == 1 else f"{len(given)} folders of runs"
    left = left_out([*folders, *(path for paths in named.values() for path in paths)])
    write_text(args.output, page(title, found, left))
    print(*filter(None, [left, f"wrote {args.output}"]), sep="\n")
    return 0


def page(title: str, found: Found, left: str = "") -> str:
    """The page as text, with a tab for each kind of results that were found; ``left``: what was left out."""
    tabs = [tab for make in TABS if (tab := make(found)) is not None]
    missing = {name: command for name, command in ADDS.items() if name not in {tab.name for tab in tabs}}
    footer = "".join(f"No {name}: {command} adds it. " for name, command in missing.items())
    return render_page(title, tabs, footer=f"{left} {footer}".strip())


def write_page(
    path: Path, title: str, groups: Mapping[str, Sequence[Run]], folders: Iterable[Path] = ()
) -> bool:
    """Write the page of a command that has its results in other files, too; False where plotly is absent,
    which is said."""
    try:
        plotly_script()
    except ImportError as error:
        print(f"{path} was not written: {error}")
        return False
    found, _ = find(folders)
    found.runs = groups
    write_text(path, page(title, found))
    return True
