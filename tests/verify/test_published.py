"""Widths of the output difference that the authors of QEBVerif published, all of them for two networks.

``qebverif_widths.csv`` holds the columns ``OutDiff`` of ``QEBVerif(Con)`` (interval) and ``QEBVerif(sym)`` in
the raw data of their table 2 (github.com/QEBVerif/Data, ``Experimental Results/RQ_1.csv``): 30 MNIST images,
radius 3.
"""

import csv
from pathlib import Path

import pytest
import torch

from quantizable.verify import Box, difference_bounds

CASES = [(net, bits) for net in ("p1", "p2") for bits in (4, 6, 8, 10)]


def published(net, bits, method):
    with Path(__file__).with_name("qebverif_widths.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    (row,) = (row for row in rows if row[:3] == [net, str(bits), method])
    return [int(i) for i in header[3:]], torch.tensor([float(x) for x in row[3:]], dtype=torch.float64)


def widths(net, bits, method, benchmark_pair, mnist):
    images, expected = published(net, bits, method if method in ("interval", "symbolic") else "symbolic")
    first, second = benchmark_pair(net, bits)
    x = mnist[images]
    found = difference_bounds(first, second, Box.around(x, 3, 0, 255, integer=True), method).output
    return found.width.gather(1, first(x).argmax(1, keepdim=True))[:, 0], expected


@pytest.mark.parametrize(("net", "bits"), CASES)
def test_symbolic_gives_every_published_width(net, bits, benchmark_pair, mnist):
    found, expected = widths(net, bits, "symbolic", benchmark_pair, mnist)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_interval_gives_every_published_width_of_one_hidden_layer(bits, benchmark_pair, mnist):
    found, expected = widths("p1", bits, "interval", benchmark_pair, mnist)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("net", "bits"), CASES)
def test_combined_is_on_every_box_at_least_as_tight_as_the_better_of_both(net, bits, benchmark_pair, mnist):
    found, _ = widths(net, bits, "combined", benchmark_pair, mnist)
    best = torch.minimum(published(net, bits, "interval")[1], published(net, bits, "symbolic")[1])
    assert (found <= best * (1 + 1e-6)).all()
