"""``quantizable predict MODEL IMAGE... --bits 4``: the five likeliest classes of each image."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import IMAGE_SUFFIXES, read_images


def run(args: argparse.Namespace) -> int:
    """Print the five likeliest classes of each image."""
    paths = find_images(args.images)
    guard = Guard.load(args.guard) if args.guard else None
    session = Session(args.model, args.engine, guard.low if guard else args.bits, args.threads)
    names = session.info.get("class_names")
    for start in range(0, len(paths), args.batch):
        some = paths[start : start + args.batch]
        logits, modes = answers(session, guard, read_images(some, session.info))
        for path, row, mode in zip(some, logits, modes, strict=True):
            best = top_classes(row, names)
            if args.json:
                print(json.dumps({"image": str(path), "bits": mode, "top5": best}))
            else:
                asked = f" (mode {mode})" if guard else ""
                likeliest = ", ".join(f"{c['class']} {100 * c['probability']:.1f} %" for c in best)
                print(f"{path}{asked}: {likeliest}")
    return 0


def answers(session: Session, guard: Guard | None, images: Tensor) -> tuple[np.ndarray, list[str]]:
    """Logits ``[N, classes]``, up to a constant per row, and the name of the mode that gave each row."""
    if guard is None:
        return only_tensor(session(images), "predict"), [session.bits] * len(images)
    rows, escalated = guard.predict(session, images)
    return rows.log().numpy(), [str(guard.high if up else guard.low) for up in escalated]


def find_images(words: list[str]) -> list[Path]:
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


def top_classes(logits: np.ndarray, names: list[str] | None, count: int = 5) -> list[dict[str, Any]]:
    """The likeliest classes with their softmax probabilities, likeliest first.

    Args:
        logits: ``[classes]``.
        names: of the classes; without, their numbers stand in.
        count: how many.
    """
    powers = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = powers / powers.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [
        {"class": names[i] if names else str(i), "index": int(i), "probability": float(probabilities[i])}
        for i in order
    ]
