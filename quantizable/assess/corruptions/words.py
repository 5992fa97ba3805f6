"""Corruptions of text: typos, dropped words, swapped words, synonyms.

Wei and Zou, EDA, EMNLP 2019 (arXiv:1901.11196), change a share of a sentence's words, one word at least;
typos are among the synthetic noise of Belinkov and Bisk, ICLR 2018 (arXiv:1711.02173).

A text is a row of ids ``[L]``: 0 is padding, behind the words; 1 a word that is not in the vocabulary.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Generator, Tensor

from quantizable.data.words import PADDING, UNKNOWN
from quantizable.interface.errors import unknown
from quantizable.seeds import generator as seeded_generator

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4)  # of a text's words, by severity: those that EDA tries


@dataclass(frozen=True)
class Words:
    """What the corruptions know of the words.

    Args:
        vocabulary: the words by id.
        neighbors: ids ``[V, n]`` that may stand for each word, its own where there are none; None: no
            synonyms are known.
    """

    vocabulary: Sequence[str]
    neighbors: Tensor | None = None


Corruption = Callable[[Tensor, float, Generator, Words], Tensor]


def typos(ids: Tensor, share: float, generator: Generator, words: Words) -> Tensor:
    """Mistype a share of the words of two letters or more; what the vocabulary lacks becomes unknown."""
    long = torch.tensor([len(word) > 1 for word in words.vocabulary])
    known = {word: number for number, word in enumerate(words.vocabulary)}
    changed = ids.clone()
    for row, column in _chosen(ids, long[ids] & (ids != PADDING), share, generator).nonzero().tolist():
        number = int(ids[row, column])
        if number != UNKNOWN:
            changed[row, column] = known.get(_mistyped(words.vocabulary[number], generator), UNKNOWN)
    return changed


def _mistyped(word: str, generator: Generator) -> str:
    """The word with two neighboring letters swapped, one left out, one doubled, or one replaced."""
    kind, at, other = (int(torch.randint(n, (), generator=generator)) for n in (4, len(word) - 1, 26))
    before, one, two, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    middle = (two + one, two, one + one + two, string.ascii_lowercase[other] + two)[kind]
    return before + middle + after


def dropped_words(ids: Tensor, share: float, generator: Generator, words: Words) -> Tensor:
    """Leave out a share of the words; one word stays."""
    there = ids != PADDING
    kept = there & ~_chosen(ids, there, share, generator, leave=1)
    order = kept.int().argsort(dim=1, descending=True, stable=True)
    return torch.where(kept, ids, PADDING).gather(1, order)


def swapped_words(ids: Tensor, share: float, generator: Generator, words: Words) -> Tensor:
    """Swap two words at random, as often as a share of the words says."""
    changed, lengths = ids.clone(), (ids != PADDING).sum(1)
    counts = _counts(lengths, share)
    rows = torch.arange(len(ids))
    for number in range(int(counts.max())):
        a, b = ((torch.rand(len(ids), generator=generator) * lengths).long() for _ in range(2))
        b = torch.where(number < counts, b, a)  # texts that have been swapped often enough
        changed[rows, a], changed[rows, b] = changed[rows, b], changed[rows, a]
    return changed


def synonyms(ids: Tensor, share: float, generator: Generator, words: Words) -> Tensor:
    """Put one of its neighbors for a share of the words that have any."""
    assert words.neighbors is not None
    near = words.neighbors
    has_any = (near != torch.arange(len(near))[:, None]).any(1)
    pick = torch.randint(near.shape[1], ids.shape, generator=generator)
    return torch.where(_chosen(ids, has_any[ids], share, generator), near[ids, pick], ids)


def _counts(lengths: Tensor, share: float) -> Tensor:
    """How many of so many words a share is: one at least, as in EDA."""
    return (share * lengths).long().clamp(min=1)


def _chosen(ids: Tensor, eligible: Tensor, share: float, generator: Generator, leave: int = 0) -> Tensor:
    """Mask ``[N, L]`` of eligible places at random, as many as a share of the text's words; ``leave`` of them
    at least stay."""
    counts = _counts((ids != PADDING).sum(1), share)
    counts = counts.minimum((eligible.sum(1) - leave).clamp(min=0))
    draw = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, 2.0)
    return draw.argsort(dim=1).argsort(dim=1) < counts[:, None]


TEXT: dict[str, Corruption] = {c.__name__: c for c in (typos, dropped_words, swapped_words, synonyms)}


def corrupt_text(ids: Tensor, name: str, severity: int, words: Words, seed: int = 0) -> Tensor:
    """Corrupted texts; the same for the same seed.

    Args:
        ids: int64 ``[N, L]``, 0 behind the words.
        name: a key of ``TEXT``.
        severity: 1 to 5.
        words: with ``neighbors`` for synonyms.
        seed: at least 0.

    Raises:
        ValueError: unknown name, a severity out of range, or synonyms where none are known.
    """
    if name not in TEXT:
        raise ValueError(unknown("corruption of text", name, TEXT))
    if severity not in range(1, len(SHARES) + 1):
        raise ValueError(f"severity {severity} is out of range; choose from 1 to 5")
    if name == "synonyms" and words.neighbors is None:
        raise ValueError("synonyms are looked for in the training texts, and none are given")
    source = seeded_generator(seed, crc32(name.encode()), severity)
    return TEXT[name](ids, SHARES[severity - 1], source, words)
