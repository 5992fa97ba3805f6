"""Files of labeled texts: columns with names, or a label and a sentence a line."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quantizable.data.words import words_of
from quantizable.interface.errors import unknown

log = logging.getLogger(__name__)

LAYOUTS = ("auto", "columns", "label_first", "label_last")
DELIMITERS = "\t,;"


class LabeledText(NamedTuple):
    """A text, its label as it is written, and the line of the file where it ends."""

    text: str
    label: str
    line: int


def read_texts_file(
    file: Path, layout: str = "auto", text_column: str = "text", label_column: str = "label"
) -> list[LabeledText]:
    """All texts of a file, in its order.

    Bytes that are no UTF-8 are replaced. Blank lines are left out, and texts without words, with a warning.

    Args:
        file: the file.
        layout: ``"columns"`` (the first line names them; separated by tabs, commas or semicolons),
            ``"label_first"`` (``LABEL sentence`` a line), ``"label_last"`` (``sentence TAB label``), or
            ``"auto"``: columns in ``.csv`` and ``.tsv`` files, else the label behind a tab where the first
            line has one, else in front.
        text_column, label_column: names of the columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown layout, no such columns, or or a line without a label; the message names
            the line.
    """
    if layout not in LAYOUTS:
        raise ValueError(unknown("layout", layout, LAYOUTS))
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of texts {file}")
    with file.open(encoding="utf-8-sig", errors="replace", newline="\n") as stream:
        head = stream.readline()
        if not head.strip() and not any(line.strip() for line in stream):
            raise ValueError(f"{file} is empty")
        stream.seek(0)
        if layout == "auto":
            layout = layout_of(file, head)
        if layout == "columns":
            found = list(_columns(file, stream, head, text_column, label_column))
        else:
            found = list(_lines(stream, layout == "label_first"))
    if blank := [str(row.line) for row in found if not words_of(row.text)]:
        some = ", ".join(blank[:5]) + ", ..." * (len(blank) > 5)
        log.warning(
            "%s: %d of %d texts have no words and are left out (line %s)", file, len(blank), len(found), some
        )
        found = [row for row in found if words_of(row.text)]
    for _, label, line in found:
        if not label:
            raise ValueError(f"{file}, line {line}: there is no label; layout={layout} was read")
    if not found:
        raise ValueError(f"{file} holds no texts")
    return found


def layout_of(file: Path, head: str) -> str:
    """The layout of a file, by its name and its first line."""
    if file.suffix.lower() in (".csv", ".tsv"):
        return "columns"
    return "label_last" if "\t" in head else "label_first"


def _columns(
    file: Path, stream: Iterator[str], head: str, text_column: str, label_column: str
) -> Iterator[LabeledText]:
    delimiter = max(DELIMITERS, key=head.count)
    # with tabs a quotation mark is one of the text, and may stand alone
    quotes: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    reader = csv.DictReader(stream, delimiter=delimiter, **quotes)
    try:
        names = list(reader.fieldnames or ())
        for column in (text_column, label_column):
            if column not in names:
                raise ValueError(
                    f"{file} has no column {column!r}; its first line names "
                    f"{', '.join(names)[:200] or 'none'}. Set data.text_column and data.label_column, or "
                    "data.layout for a file without such a line"
                )
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{file}, line {reader.line_num}: there are more fields than names in the first line; "
                    f"put quotation marks around a text that holds {delimiter!r}"
                )
            yield LabeledText(row[text_column] or "", (row[label_column] or "").strip(), reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from error


def _lines(stream: Iterator[str], label_first: bool) -> Iterator[LabeledText]:
    for number, line in enumerate(stream, 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        if label_first:
            label, _, text = line.lstrip().partition(" ")
        else:
            text, _, label = line.rpartition("\t")
        yield LabeledText(text, label.strip(), number)
