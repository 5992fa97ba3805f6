"""Which image goes where: the held-out split, the order of an epoch, the shards of its ranks.

Everything here is a pure function of explicit seeds. Nothing depends on how far a run has come,
so an interrupted epoch can be continued at any batch.
"""

import torch
from torch import Tensor

from quantizable.seeds import generator

SORTED = 16  # batches of an epoch that are sorted together by length


def split(
    size: int, val_size: int | float, seed: int = 0, *, of: str = "images", name: str = "val_size"
) -> tuple[Tensor, Tensor]:
    """Indices (train, validation) of a random split of `range(size)`, both sorted and disjoint.

    Args:
        size: number of images in the training set.
        val_size: what to hold out: a count (int, 0 to size - 1) or a fraction (float in [0, 1)).
        seed: the split's own seed, so that changing the run's seed does not change the split.
        of, name: what is split, and the setting of `val_size`, for messages.

    Raises:
        ValueError: `val_size` out of range, or a fraction that comes to no image.
    """
    count = round(val_size * size) if isinstance(val_size, float) else val_size
    in_range = val_size < 1 if isinstance(val_size, float) else count < size
    if count < 0 or not in_range or count >= size:
        raise ValueError(
            f"{name}={val_size} cannot be held out of {size} training {of}; give a count "
            f"from 0 to {size - 1}, or a fraction from 0.0 to below 1.0"
        )
    if val_size and not count:
        raise ValueError(
            f"too few {of}: {name}={val_size} of {size} training {of} holds out none; give more "
            f"{of}, a larger {name}" + (", or 0 for no validation" if name == "val_size" else "")
        )
    order = torch.randperm(size, generator=generator(seed))
    return order[count:].sort().values, order[:count].sort().values


def train_batch_count(size: int, batch_size: int, world_size: int = 1) -> int:
    """Batches that each rank trains on per epoch; at least 1."""
    return max(size // (batch_size * world_size), 1)


def train_batches(
    size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    lengths: Tensor | None = None,
) -> list[Tensor]:
    """The index batches of one rank in one training epoch.

    The epoch is one permutation, fixed by (seed, epoch). It is cut into global batches of
    `batch_size * world_size`, and each global batch is dealt out to the ranks. So two ranks with
    batches of 64 together see exactly what one process with batches of 128 sees, step by step.
    The remainder that fills no global batch is left out; it is another one every epoch.

    Args:
        size: number of images.
        batch_size: images per batch and rank.
        seed, epoch: of the permutation.
        rank, world_size: this process and the number of processes.
        lengths: of sequences, ``[size]``: batches are then of sequences of similar length.
    """
    order = torch.randperm(size, generator=generator(seed, epoch))
    global_size = batch_size * world_size
    count = train_batch_count(size, batch_size, world_size)
    batches = [order[i * global_size : (i + 1) * global_size] for i in range(count)]
    if lengths is not None:
        batches = _of_similar_length(batches, lengths, seed, epoch)
    return [batch[rank::world_size] for batch in batches]


def _of_similar_length(batches: list[Tensor], lengths: Tensor, seed: int, epoch: int) -> list[Tensor]:
    """The same sequences dealt out anew: sorted within groups of ``SORTED`` batches, which are then shuffled.

    So little of a batch is padding, and which sequences meet still changes with every epoch.
    """
    dealt: list[Tensor] = []
    for start in range(0, len(batches), SORTED):
        together = torch.cat(batches[start : start + SORTED])
        together = together[lengths[together].argsort(stable=True)]
        dealt += together.split(len(batches[0]))
    shuffled = torch.randperm(len(dealt), generator=generator("lengths", seed, epoch)).tolist()
    return [dealt[i] for i in shuffled]


def eval_batch_count(size: int, batch_size: int, world_size: int = 1) -> int:
    """Batches that each rank evaluates; the same on every rank."""
    longest, shortest = -(-size // world_size), size // world_size
    # Never more batches than the shortest shard has images: an empty batch has no mean.
    return max(min(-(-longest // batch_size), shortest), 1)


def eval_batches(size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """The index batches of one rank over a whole evaluation set, in a fixed order.

    Every image is seen exactly once, by exactly one rank (no padding that would count some
    images twice), and every rank runs the same number of batches (a rank that stops early would
    leave the others waiting). Both hold because the shard is cut into near-equal batches.
    """
    count = eval_batch_count(size, batch_size, world_size)
    return list(torch.arange(size)[rank::world_size].tensor_split(count))
