"""Random streams by key: every draw is a pure function of what it is for, of the run's seed and of its place.

Arithmetic on seeds (``seed * a + epoch * b``) lets the streams of different runs meet; keys do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch


def key_seed(*key: int | str) -> int:
    """One 63-bit seed from a key; near keys give unrelated seeds.

    Args:
        key: the name of a purpose (``"noise"``), then integers: the seed, and where the draw is (epoch,
            batch, rank, ...). Different keys give different streams. A key of non-negative integers alone,
            as the order of the data has, is told only from others of its own length: (1,) and (1, 0) are
            the same.
    """
    if any(isinstance(part, str) for part in key):
        digest = sha256("/".join(str(part) for part in key).encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))  # type: ignore[arg-type]


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by ``key_seed(*key)``."""
    return torch.Generator().manual_seed(key_seed(*key))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and restore it after.

    The transforms of torchvision draw from the global generator. Only the CPU's is touched:
    ``torch.manual_seed`` would reset the accelerator's too, which is busy with the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
