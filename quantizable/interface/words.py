"""Words of a command line."""

from __future__ import annotations


def listed(text: str) -> list[str]:
    """The words of a list that commas separate."""
    return [word.strip() for word in text.split(",") if word.strip()]
