"""The page read back by an HTML parser."""

import base64
import json
import sys
from html.parser import HTMLParser

import pytest

from quantizable.report.page import Chart, Grid, Note, Picture, Tab, render_page

EVIL = "<script>alert('a' & \"b\")</script>"


class Reader(HTMLParser):
    """Text of the cells, headings and notes, and the sources of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for key, value in attrs if key == "src"]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.tags[-1], data))


def test_every_word_is_shown_as_it_is_and_none_is_markup() -> None:
    parts = [Note(EVIL), Grid(EVIL, ["a", EVIL], [[1, EVIL]]), Picture(EVIL, b"\x89PNG")]
    page = render_page(EVIL, [Tab("one", parts)], [EVIL], EVIL)
    reader = Reader()
    reader.feed(page)
    assert reader.tags.count("script") == 1  # the page's own
    shown = [(tag, word) for tag, word in reader.words if tag not in ("style", "script")]
    expected = [("title", EVIL), ("h1", EVIL), ("p", EVIL), ("h2", "one"), ("p", EVIL), ("h2", EVIL)]
    cells = [("th", "a"), ("th", EVIL), ("td", "1"), ("td", EVIL), ("figcaption", EVIL), ("footer", EVIL)]
    assert shown == expected + cells
    assert reader.sources == ["data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()]


def test_a_chart_is_data_that_no_name_can_break_out_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizable.report.page.plotly_script", lambda: "/* plotly.js */")
    chart = Chart(
        "title", "It shows this.", [{"name": "</script>" + EVIL, "y": [float("nan"), 1.0]}], {}, "Careful."
    )
    reader = Reader()
    reader.feed(render_page("page", [Tab("one", [chart])]))
    held = next(word for tag, word in reader.words if tag == "script" and word.startswith("{"))
    assert json.loads(held) == {"data": [{"name": "</script>" + EVIL, "y": [None, 1.0]}], "layout": {}}
    words = [word for _, word in reader.words]
    assert words.index("It shows this.") < words.index(
        "Careful."
    )  # below the chart, and the warning below it
    assert reader.tags.count("script") == 3  # plotly, data, the page's own


def test_tabs_are_named_once_there_are_two() -> None:
    one, two = Tab("first", []), Tab("second", [])
    assert "<nav" not in render_page("page", [one])
    page = render_page("page", [one, two])
    assert 'aria-controls="second"' in page
    assert 'name=viewport content="width=device-width' in page
    assert "@media print" in page


def test_without_plotly_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match="pip install plotly"):
        render_page("page", [Tab("one", [Chart("a", "b", [])])])


def test_plotly_is_put_into_the_page_and_nothing_is_fetched() -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    page = render_page("page", [Tab("one", [Chart("a", "b", [{"type": "bar", "y": [1]}])])])
    reader = Reader()
    reader.feed(page)
    assert len(page) > 1_000_000
    assert not reader.sources
    assert "link" not in reader.tags
