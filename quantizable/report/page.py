"""One HTML page with its tabs, charts, tables and pictures inside: nothing is fetched when it is read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment

from quantizable.report.files import finite

FRAME = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Grid:
    """A table whose columns can be sorted: title (may be empty), head, rows of as many cells."""

    kind: ClassVar = "grid"
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Chart:
    """A plotly figure in plain types.

    Attributes:
        title: above it.
        says: one sentence that says what it shows.
        data, layout: as ``Plotly.newPlot`` takes them; NaN and infinity become gaps.
        warning: what a reader might read into it that it does not say; empty: nothing.
    """

    kind: ClassVar = "chart"
    title: str
    says: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        """What the page's script reads."""
        return finite({"data": list(self.data), "layout": dict(self.layout)})


@dataclass(frozen=True)
class Picture:
    """A PNG file's contents, and one sentence that says what it shows."""

    kind: ClassVar = "picture"
    says: str
    png: bytes

    @property
    def encoded(self) -> str:
        """The contents in base64."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Note:
    """What a reader must know first."""

    kind: ClassVar = "note"
    text: str


Part = Grid | Chart | Picture | Note


@dataclass(frozen=True)
class Tab:
    """One part of the page; ``name`` is a word."""

    name: str
    parts: Sequence[Part]


def render_page(title: str, tabs: Iterable[Tab], notes: Iterable[str] = (), footer: str = "") -> str:
    """The page as text; every word in it is escaped.

    Args:
        title: of the page.
        tabs: what it shows.
        notes: what a reader must know first.
        footer: a last line.

    Raises:
        ImportError: there are charts, and plotly is not installed.
    """
    tabs = list(tabs)
    charts = any(isinstance(part, Chart) for tab in tabs for part in tab.parts)
    template = Environment(autoescape=True).from_string(FRAME.read_text())
    script = plotly_script() if charts else ""
    return template.render(title=title, tabs=tabs, notes=list(notes), footer=footer, script=script)


def plotly_script() -> str:
    """plotly.js, which is put into the page.

    Raises:
        ImportError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError("the page's charts need plotly: pip install plotly") from error
    return get_plotlyjs()
