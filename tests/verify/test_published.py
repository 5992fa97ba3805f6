"""Widths of the output difference that the authors of QEBVerif published, all of them for two networks.

``qebverif_widths.csv`` holds the columns ``OutDiff`` of ``QEBVerif(Con)`` (interval) and ``QEBVerif(sym)`` in
the raw data of their table 2 (github.com/QEBVerif/Data, ``Experimental Results/RQ_1.csv``): 30 MNIST images,
radius 3.
"""

import csv
from pathlib import Path

import pytest
import torch

from quantizable.verify import Box, mode_difference_bounds

NETWORKS = ["p1", "p2"]
BITS = ["4", "6", "8", "10"]
SOME = slice(0, 30, 6)


def published(net, bits, method):
    """Indices of the images and the widths of the predicted class."""
    with Path(__file__).with_name("qebverif_widths.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    (row,) = (row for row in rows if row[:3] == [net, bits, method])
    return [int(i) for i in header[3:]], torch.tensor([float(x) for x in row[3:]], dtype=torch.float64)


def widths(net, method, benchmark_pair, mnist, part=slice(None)):
    """Widths of all modes, from one call."""
    pairs = {bits: benchmark_pair(net, int(bits)) for bits in BITS}
    first = pairs["4"][0]
    x = mnist[published(net, "4", "symbolic")[0][part]]
    box = Box.around(x, 3, 0, 255, integer=True)
    found = mode_difference_bounds(first, {bits: second for bits, (_, second) in pairs.items()}, box, method)
    output = first(x).argmax(1, keepdim=True)
    return {bits: known.output.width.gather(1, output)[:, 0] for bits, known in found.items()}


@pytest.mark.parametrize("net", NETWORKS)
def test_symbolic_gives_every_published_width(net, benchmark_pair, mnist):
    for bits, found in widths(net, "symbolic", benchmark_pair, mnist).items():
        torch.testing.assert_close(found, published(net, bits, "symbolic")[1], rtol=2e-6, atol=0)


def test_interval_gives_every_published_width_of_one_hidden_layer(benchmark_pair, mnist):
    for bits, found in widths("p1", "interval", benchmark_pair, mnist).items():
        torch.testing.assert_close(found, published("p1", bits, "interval")[1], rtol=2e-6, atol=0)


@pytest.mark.parametrize("net", NETWORKS)
def test_combined_is_at_least_as_tight_as_the_better_of_both(net, benchmark_pair, mnist):
    """On some boxes here, to be quick; it held on all 240 (``combined`` contains ``symbolic``)."""
    for bits, found in widths(net, "combined", benchmark_pair, mnist, SOME).items():
        best = torch.minimum(*(published(net, bits, method)[1] for method in ("interval", "symbolic")))
        assert (found <= best[SOME] * (1 + 1e-6)).all()
