"""Fixtures of the verification tests: shared data where present, small networks otherwise."""

import csv
import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from quantizable.verify import Box, FixedPoint, fixed_point_network, float_network, load_npz
from tests.tiny import SHARED

FILES = {"p1": "p1_784_100_10.npz", "p2": "p2_784_100_100_10.npz"}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data; skips where it is absent."""
    folder = SHARED / "data"
    if not (folder / "qebverif").is_dir():
        pytest.skip(f"no shared data at {folder}; set QUANTIZABLE_SHARED to the folder with data/")
    return folder


@pytest.fixture(scope="session")
def mnist(shared):
    """MNIST test pixels 0..255, ``(10000, 784)``, float64."""
    raw = gzip.decompress((shared / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).copy()).double()


@pytest.fixture(scope="session")
def published(shared):
    """Reader of a published CSV: ``published("published_verdicts.csv")`` gives its rows."""

    def read(name):
        with (shared / "qebverif" / name).open(newline="") as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture(scope="session")
def benchmark_pair(shared):
    """``benchmark_pair("p1", 8)``: the float network and its fixed-point counterpart."""

    def make(net, bits):
        weights, biases = load_npz(shared / "qebverif" / FILES[net])
        return (
            float_network(weights, biases),
            fixed_point_network(weights, biases, FixedPoint(bits)),
        )

    return make


def random_pair(seed, sizes=(4, 6, 5, 3), bits=4):
    """A random ReLU network on pixels and its fixed-point counterpart."""
    generator = torch.Generator().manual_seed(seed)
    weights, biases = [], []
    for fan_in, fan_out in pairwise(sizes):
        shape = (fan_out, fan_in)
        weights.append(torch.randn(shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
        biases.append(torch.randn(fan_out, generator=generator, dtype=torch.float64) / 4)
    return (
        float_network(weights, biases),
        fixed_point_network(weights, biases, FixedPoint(bits)),
    )


def sample(box: Box, count: int, seed: int = 0) -> torch.Tensor:
    """Inputs of a box, ``(count, batch, *shape)``: a third of them corners, all legal."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand((count, *box.low.shape), generator=generator, dtype=torch.float64)
    share[: count // 3] = share[: count // 3].round()
    x = box.low + (box.high - box.low) * share
    return x.round() if box.integer else x
