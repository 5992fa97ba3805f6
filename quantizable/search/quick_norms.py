"""Norms of a candidate from one pass of a few batches: what does not depend on the candidate is kept.

``reestimate_norms`` runs the highest mode on every batch, then both statistics, the stored and the fitted, on
each batch again, to keep the better ones. Here the highest mode runs once for all candidates, and what is
fitted is taken. Statistics kept for each mode of each layer would be cheaper still, and are no use: what a
norm sees depends on the layers before it as much as on its own (docs/results/search.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from quantizable.network import QuantizableNetwork
from quantizable.nn.norm_statistics import NormStatistics, named_batch_norms
from quantizable.nn.passes import evaluating


class QuickNorms:
    """Fits the norms of assignments, one after another, to the same batches.

    Args:
        network: its highest mode is what the statistics are compared with.
        batches: inputs ``[B, ...]``; none: norms stay as they are.
    """

    def __init__(self, network: QuantizableNetwork, batches: Sequence[Tensor]) -> None:
        self.network, self.batches = network, batches
        with network.at_bits(network.modes[-1]), evaluating(network), torch.no_grad():
            self.reference = NormStatistics(named_batch_norms(network))
            with self.reference.fitting(keep=True):
                for x in batches:
                    network(x)
            self.reference.restore()

    @contextmanager
    def fitted(self) -> Iterator[None]:
        """The norms of the current assignment fitted, for the length of a ``with`` block."""
        statistics = NormStatistics(named_batch_norms(self.network), self.reference)
        try:
            with evaluating(self.network), torch.no_grad(), statistics.fitting():
                for x in self.batches:
                    self.network(x)
            yield
        finally:
            statistics.restore()
