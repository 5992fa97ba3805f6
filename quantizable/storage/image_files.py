"""The image files that a command line names, found without torch."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from pathlib import Path

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
            inside = sorted(p for p in Path(word).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
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
