"""Which words stand for which: neighbors in an embedding made of the training texts alone.

The embedding is the positive pointwise mutual information of words that stand near each other, reduced by a
singular-value decomposition (Levy and Goldberg, NeurIPS 2014). It needs no download and is the same for all
networks of a data set, so that all are shown the same synonyms. Words that are used alike are near: among
them are opposites, which a label may not survive.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.linalg import svds
from torch import Tensor

LEAST = 5  # occurrences; rarer words have no neighbors, and are none
WINDOW = 4  # words to each side that count as near


def word_neighbors(ids: Tensor, size: int, count: int = 3, dimensions: int = 100) -> Tensor:
    """For each word of a vocabulary the ids ``[size, count]`` of its nearest ones; its own where it is rare.

    Args:
        ids: training texts, int64 ``[N, L]``; 0 and 1 are no words.
        size: of the vocabulary.
        count: of neighbors.
        dimensions: of the embedding, or what the number of frequent words allows.
    """
    own = torch.arange(size)[:, None].repeat(1, count)
    often = torch.bincount(ids.flatten(), minlength=size) >= LEAST
    often[:2] = False
    frequent = often.nonzero().flatten()
    if len(frequent) <= count + 1:
        return own
    vectors = F.normalize(_vectors(ids, often, min(dimensions, len(frequent) - 1)), dim=1)
    likeness = vectors @ vectors.T
    likeness.fill_diagonal_(-2.0)
    own[frequent] = frequent[likeness.topk(count, dim=1).indices]
    return own


def _vectors(ids: Tensor, often: Tensor, dimensions: int) -> Tensor:
    """Embedding ``[F, dimensions]`` of the frequent words, in the order of their ids."""
    number = often.long().cumsum(0) - 1
    pairs = []
    for distance in range(1, min(WINDOW, ids.shape[1] - 1) + 1):
        left, right = ids[:, :-distance], ids[:, distance:]
        both = often[left] & often[right]
        pairs.append(torch.stack((number[left[both]], number[right[both]])))
    left, right = torch.cat(pairs, 1).numpy()
    total = int(often.sum())
    counts = coo_array((np.ones(len(left)), (left, right)), shape=(total, total)).tocsr()
    together = (counts + counts.T).tocoo()
    each = np.asarray(together.sum(axis=1)).ravel()
    a, b = together.coords
    shared = np.log(together.data * each.sum() / (each[a] * each[b]))
    positive = coo_array((np.maximum(shared, 0), (a, b)), shape=(total, total)).tocsr()
    u, s, _ = svds(positive, k=dimensions, rng=np.random.default_rng(0))
    return torch.from_numpy(u * np.sqrt(s))
