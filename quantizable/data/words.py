"""From a text to the ids of its words, and the vocabulary that says which word has which id.

One regular expression finds the words: a library would add a dependency and a file format for these few
lines, and the vocabulary would no longer be a plain list that checkpoints and exported files carry.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PADDING, UNKNOWN = 0, 1  # ids: behind the end of a text, and of words that the vocabulary lacks
SPECIAL = ("<pad>", "<unk>")  # no text has such words: "<" is one of its own
# As the Penn Treebank splits, on which SST and others are made: "don't" is "do" and "n't", "it's" is "it" and
# "'s"; beside these runs of letters and digits, and each other mark alone.
WORD = re.compile(r"n't\b|\w+?(?=n't\b)|\w+|'(?:s|re|ve|ll|d|m)\b|[^\w\s]")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words_of("It's good, don't miss it!")
    ['it', "'s", 'good', ',', 'do', "n't", 'miss', 'it', '!']
    """
    return WORD.findall(text.lower().replace("\u2019", "'"))


def vocabulary_of(texts: Iterable[str], min_frequency: int = 1, max_size: int | None = None) -> list[str]:
    """The words of texts, the most frequent first, behind those of :data:`SPECIAL`; an id is a position.

    Args:
        texts: those of training.
        min_frequency: words that come less often are left out.
        max_size: entries at most; None: no limit.
    """
    counts = Counter(word for text in texts for word in words_of(text))
    kept = (word for word, count in counts.items() if count >= min_frequency)
    return [*SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))][:max_size]


def encode(texts: Sequence[str], vocabulary: Sequence[str], max_length: int) -> list[Tensor]:
    """Ids of the first ``max_length`` words of each text, int64 ``[words]``.

    Raises:
        ValueError: a text without words.
    """
    ids = {word: number for number, word in enumerate(vocabulary)}
    found = []
    for number, text in enumerate(texts, 1):
        words = words_of(text)[:max_length]
        if not words:
            raise ValueError(f"text {number} of {len(texts)} is empty; give at least one word")
        found.append(torch.tensor([ids.get(word, UNKNOWN) for word in words]))
    return found


def padded(texts: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Texts of ids as one batch ``[N, L]``, with :data:`PADDING` behind the end of the shorter ones.

    Args:
        texts: int64 ``[words]`` each.
        length: L, at least that of the longest text; None: that of the longest.
    """
    batch = pad_sequence(list(texts), batch_first=True, padding_value=PADDING)
    return batch if length is None else F.pad(batch, (0, length - batch.shape[1]), value=PADDING)
