"""``quantizable predict MODEL IMAGE... --bits 4``: the five likeliest classes of each image."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from torch import Tensor

from quantizable.deploy.guard import Guard
from quantizable.deploy.session import Session
from quantizable.storage.outputs import only_tensor
from quantizable.storage.preprocessing import read_images


def run(args: argparse.Namespace) -> int:
    """Print the five likeliest classes of each of ``images``, paths."""
    guard = Guard.load(args.guard) if args.guard else None
    session = Session(args.model, args.engine, guard.low if guard else args.bits, args.threads)
    names = session.info.get("class_names")
    for start in range(0, len(args.images), args.batch):
        some = args.images[start : start + args.batch]
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
