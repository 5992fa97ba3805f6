"""``quantizable predict MODEL INPUT... --bits 4``: the five likeliest classes of each image or text."""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.storage.network_file import read_about
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import IMAGE_SUFFIXES, read_images, read_texts


def run(args: argparse.Namespace) -> int:
    """Print the five likeliest classes of each image or text."""
    graph = args.model.suffix in (".onnx", ".xml")
    about = None if graph else read_about(args.model)  # a typo is answered before a mode is compiled
    inputs = find_inputs(args.inputs, about["data"]) if about else None
    guard = Guard.load(args.guard) if args.guard else None
    session = Session(args.model, args.engine, guard.low if guard else args.bits, args.threads)
    if inputs is None:
        inputs = find_inputs(args.inputs, session.info)
    names, kind = session.info.get("class_names"), "text" if reads_words(session.info) else "image"
    for start in range(0, len(inputs), args.batch):
        some = inputs[start : start + args.batch]
        logits, modes = answers(session, guard, read_inputs(some, session.info))
        for one, row, mode in zip(some, logits, modes, strict=True):
            best = top_classes(row, names)
            if args.json:
                print(json.dumps({kind: str(one), "bits": mode, "top5": best}))
            else:
                asked = f" (mode {mode})" if guard else ""
                likeliest = ", ".join(f"{c['class']} {100 * c['probability']:.1f} %" for c in best)
                print(f"{one}{asked}: {likeliest}")
    return 0


def reads_words(info: Mapping[str, Any]) -> bool:
    """True if a network reads texts, by what its file says of it."""
    return bool(info.get("vocabulary"))


def find_inputs(words: list[str], info: Mapping[str, Any]) -> list[Any]:
    """What the words of the command line name: texts for a network that reads them, else images."""
    return find_texts(words) if reads_words(info) else find_images(words)


def read_inputs(inputs: list[Any], info: dict[str, Any]) -> Tensor:
    """Images or texts as the network takes them."""
    return read_texts(inputs, info) if reads_words(info) else read_images(inputs, info)


def find_texts(words: list[str]) -> list[str]:
    """Texts as they are, those in files and on standard input (``-``), one a line.

    Raises:
        FileNotFoundError: a name that ends in .txt and is no file.
        ValueError: a file without texts, or a text that is empty.
    """
    found: list[str] = []
    for word in words:
        if word == "-":
            found += [line.strip() for line in sys.stdin if line.strip()]
        elif os.path.isfile(word):  # as Path's own, and a long sentence is none
            lines = Path(word).read_text(encoding="utf-8", errors="replace").split("\n")
            texts = [line.strip() for line in lines if line.strip()]
            if not texts:
                raise ValueError(f"{word} holds no texts")
            found += texts
        elif word.endswith(".txt"):
            raise FileNotFoundError(f"there is no file {word}")
        elif not word.strip():
            raise ValueError("a text is empty; give at least one word")
        else:
            found.append(word)
    if not found:
        raise ValueError("no text was given")
    return found


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
