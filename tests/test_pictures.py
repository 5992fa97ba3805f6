"""The pictures of the docs are of today's pages: the words they show lie in the files."""

import re
from pathlib import Path

import pytest
from PIL import Image

from quantizable.report.found import find
from quantizable.report.groups import joined
from quantizable.report.page import Chart, Grid
from quantizable.report.tab_modes import modes

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
AGAIN = "benchmarks/screenshots.py takes them again"
ANSWER = ROOT / "quantizable" / "deploy" / "demo_answer.html"
SMALL = 100_000  # bytes of a picture in the repository


def words(name: str) -> str:
    """What a picture shows, on one line."""
    with Image.open(PICTURES / name) as image:
        return " ".join(image.text["words"].split())


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_tab_on_modes_says_what_its_picture_shows(width: str) -> None:
    found, rest = find([ROOT / "docs" / "results" / "cifar10_resnet20"])
    found.runs = joined(found.runs, rest)
    tab, shown = modes(found), words(f"report-modes-{width}.png")
    assert tab is not None
    expected: list[str] = []
    for part in tab.parts:
        if isinstance(part, Chart):
            expected += [part.title, part.says, part.warning]
        if isinstance(part, Grid):
            expected += [part.title, *part.head, *(str(cell) for row in part.rows for cell in row)]
    assert len(expected) > 30
    assert not [text for text in expected if " ".join(text.split()) not in shown], AGAIN


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_demo_says_what_its_picture_shows(width: str) -> None:
    shown = words(f"demo-{width}.png")
    fixed = re.sub(r"{%.*?%}|{{.*?}}|<[^>]*>", "\n", ANSWER.read_text(), flags=re.DOTALL)
    lines = [" ".join(line.split()) for line in fixed.splitlines()]
    # sentences of which a page has one or the other, and what a macro writes
    other = ("All modes agree", "below the threshold", "none; quantizable assess", "is enough", "%")
    left = [line for line in lines if re.search("[a-z]{4}", line) and not line.startswith(other)]
    for said in (*left, "latency, ms", "energy (estimate), \u00b5J", "weights, kB"):
        assert said.replace("&nbsp;", " ") in shown, AGAIN


def test_pictures_are_small_and_of_both_widths() -> None:
    files = [*PICTURES.glob("report-*.png"), *PICTURES.glob("demo-*.png")]
    for file in files:
        assert file.stat().st_size < SMALL
        with Image.open(file) as image:
            assert image.width == (390 if file.stem.endswith("phone") else 1280)
    assert {file.stem.rpartition("-")[2] for file in files} == {"desktop", "phone"}
