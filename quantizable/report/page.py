"""One HTML page with its tables and pictures inside: nothing is fetched when it is read."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><title>{{ title }}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}.note{color:#a40}</style>
<h1>{{ title }}</h1>
{% for note in notes %}<p class=note>{{ note }}</p>
{% endfor %}{% for picture in pictures %}<img alt="" src="data:image/png;base64,{{ picture }}">
{% endfor %}{% for table in tables %}{% if table.title %}<h2>{{ table.title }}</h2>
{% endif %}<table><tr>{% for cell in table.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}</html>
"""


@dataclass(frozen=True)
class Grid:
    """A table: title (may be empty), head, rows of as many cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def render_page(
    title: str, tables: Iterable[Grid], pictures: Iterable[bytes] = (), notes: Iterable[str] = ()
) -> str:
    """The page as text; every word in it is escaped.

    Args:
        title: of the page.
        tables: shown below the pictures.
        pictures: contents of PNG files.
        notes: what a reader must know first.
    """
    shown = [base64.b64encode(picture).decode() for picture in pictures]
    template = Environment(autoescape=True).from_string(PAGE)
    return template.render(title=title, tables=list(tables), pictures=shown, notes=list(notes))
