"""``quantizable predict MODEL INPUT... --bits 4``: the five likeliest classes of each image or text."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.storage.input_files import find_inputs, reads_words
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import read_images, read_texts


def run(args: argparse.Namespace) -> int:
    """Print the five likeliest classes of each image or text."""
    guard = Guard.load(args.guard) if args.guard else None
    session = Session(args.model, args.engine, guard.low if guard else args.bits, args.threads)
    # the file of a graph says what it reads only when it is loaded
    inputs = find_inputs(args.inputs, session.info) if args.found is None else args.found
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


def read_inputs(inputs: list[Any], info: dict[str, Any]) -> Tensor:
    """Images or texts as the network takes them."""
    return read_texts(inputs, info) if reads_words(info) else read_images(inputs, info)


def answers(session: Session, guard: Guard | None, images: Tensor) -> tuple[np.ndarray, list[str]]:
    """Logits ``[N, classes]``, up to a constant per row, and the name of the mode that gave each row."""
    if guard is None:
        return only_tensor(session(images), "predict"), [session.bits] * len(images)
    rows, escalated = guard.predict(session, images)
    return rows.log().numpy(), [str(guard.high if up else guard.low) for up in escalated]


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
