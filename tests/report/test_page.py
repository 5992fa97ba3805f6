"""The page read back by an HTML parser."""

import base64
from html.parser import HTMLParser

from quantizable.report.page import Grid, render_page

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
    page = render_page(EVIL, [Grid(EVIL, ["a", EVIL], [[1, EVIL]])], [b"\x89PNG"], [EVIL])
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    shown = [(tag, word) for tag, word in reader.words if tag != "style"]
    expected = [("title", EVIL), ("h1", EVIL), ("p", EVIL), ("h2", EVIL)]
    assert shown == [*expected, ("th", "a"), ("th", EVIL), ("td", "1"), ("td", EVIL)]
    assert reader.sources == ["data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()]
