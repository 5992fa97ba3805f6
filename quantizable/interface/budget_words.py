"""``--budget``: words that name searches and their limits, read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from quantizable.interface.choices import COSTS
from quantizable.interface.errors import unknown


def read_budgets(words: Sequence[str], cost: str) -> list[dict[str, str]]:
    """The limits of each search by the name of the cost, ``[{"bytes": "4bit", "bops": "3.5bit"}]``.

    Args:
        words: ``["3bit,4bit"]`` are two searches, ``["bytes=4bit", "bops=3.5bit"]`` is one with two limits,
            ``["bytes=3bit,4bit", "bops=4bit"]`` are two with two limits each.
        cost: what a word without a name limits.

    Raises:
        ValueError: an unknown cost, one that is limited twice, or no value.
    """
    named: dict[str, list[str]] = {}
    for word in " ".join(words).split():
        name, _, values = word.rpartition("=")
        name = name.strip() or cost
        if name not in COSTS:
            raise ValueError(unknown("cost", name, COSTS))
        found = [value.strip() for value in values.split(",")]
        if not all(found):
            raise ValueError(f"budget {word!r} is not understood; write 4bit, a number, or bytes=4bit")
        if name in named:
            raise ValueError(f"--budget limits {name} twice ({' '.join(words)}); give each cost once")
        named[name] = found
    if not named:
        raise ValueError("--budget names no limit; write 4bit, a number, or bytes=4bit")
    return [dict(zip(named, values, strict=True)) for values in product(*named.values())]
