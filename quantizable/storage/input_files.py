"""The images or texts that a command line names, found without torch."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantizable.report.below import files_below

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def find_images(words: Iterable[str]) -> list[Path]:
    """Image files from names, folders (their images), globs, and ``-`` (one name a line on standard input).

    Raises:
        FileNotFoundError: a name or a glob that fits nothing, or a folder without images.
    """
    found: list[Path] = []
    for word in words:
        if word == "-":
            found += find_images([line.strip() for line in sys.stdin if line.strip()])
        elif Path(word).is_dir():
            inside = sorted(p for p in files_below(Path(word)) if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"there are no images in {word}")
            found += inside
        elif Path(word).exists():
            found.append(Path(word))
        elif matching := sorted(glob.glob(word, recursive=True)):
            found += find_images(matching)
        else:
            raise FileNotFoundError(f"there is no image {word}")
    if not found:
        raise FileNotFoundError("no image was named")
    return found


def check_images(paths: Sequence[Path], decoded: int) -> None:
    """``ValueError`` for the first that is no image, as far as its head says; some are decoded in full.

    Args:
        paths: of the images.
        decoded: how many.
    """
    from PIL import Image

    for number, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                if number < decoded:
                    image.load()
        except Exception as error:  # Pillow's readers answer damaged bytes with errors of many kinds
            raise ValueError(f"{path} is no image that can be read ({error})") from error


def find_texts(words: Iterable[str]) -> list[str]:
    """Texts as they are, those in files and on standard input (``-``): one a line, or a column ``text``.

    Raises:
        FileNotFoundError: a name that ends in .txt and is no file.
        ValueError: a folder, a file without texts or of something else, or a text that is empty; a .csv or
            .tsv file without a column ``text``.
    """
    found: list[str] = []
    for word in words:
        if word == "-":
            found += [line.strip() for line in sys.stdin if line.strip()]
        elif os.path.isfile(word):  # as Path's own, and a long sentence is none
            content = Path(word).read_bytes()
            if b"\0" in content:
                raise ValueError(f"{word} is no file of texts; this network reads words")
            lines = content.decode("utf-8-sig", errors="replace")
            if word.lower().endswith((".csv", ".tsv")):
                texts = _column_of_texts(word, lines)
            else:
                texts = [line.strip() for line in lines.split("\n") if line.strip()]
            if not texts:
                raise ValueError(f"{word} holds no texts")
            found += texts
        elif os.path.isdir(word):
            raise ValueError(f"{word} is a folder; this network reads words: give texts, or files of them")
        elif word.endswith(".txt"):
            raise FileNotFoundError(f"there is no file {word}")
        elif not word.strip():
            raise ValueError("a text is empty; give at least one word")
        else:
            found.append(word)
    if not found:
        raise ValueError("no text was given")
    return found


def _column_of_texts(file: str, content: str) -> list[str]:
    """The column ``text`` of a file with named columns, as ``data=text`` reads it."""
    head = content.partition("\n")[0]
    delimiter = max(",\t;", key=head.count)
    quotes: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, **quotes)
    try:
        if "text" not in (rows.fieldnames or ()):
            raise ValueError(
                f"{file} has no column 'text'; name it so, or give a .txt file with one text a line"
            )
        read = list(rows)
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num}: {error}") from error
    for number, row in enumerate(read, 1):
        if None in row:
            raise ValueError(
                f"{file}, row {number}: there are more fields than names in the first line; put quotation "
                f"marks around a text that holds {delimiter!r}"
            )
    return [row["text"].strip() for row in read if (row["text"] or "").strip()]


def reads_words(info: Mapping[str, Any]) -> bool:
    """True if a network reads texts, by what its file says of it."""
    return bool(info.get("vocabulary"))


def find_inputs(words: Iterable[str], info: Mapping[str, Any]) -> list[Any]:
    """What the words of the command line name: texts for a network that reads them, else images."""
    return find_texts(words) if reads_words(info) else find_images(words)
