"""Batch norms of several modes fitted to data, and kept where that brings a mode closer to the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.nn.network_inputs import tensors_of
from quantizable.nn.norm_statistics import NormStatistics, active_batch_norms, is_fresh, named_batch_norms
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.passes import evaluating

Run = Callable[[Any], Any]  # a forward pass, called with the network
COMPARED = 4  # passes in which fitted statistics must do better than stored ones


def fit_norms(
    network: nn.Module,
    runs: Iterable[Run],
    switches: Sequence[Callable[[], None]],
    reference: Callable[[], None],
    fit_reference: bool = False,
) -> None:
    """Fit the statistics of batch norms to data, for several assignments at a time, see ``norm_statistics``.

    Args:
        network: the network.
        runs: forward passes, each called with the network.
        switches: each makes the network run in one of the assignments to fit.
        reference: makes it run in the mode that the others are compared with.
        fit_reference: fit that one, too.
    """
    reference()
    first = NormStatistics(named_batch_norms(network))
    others: list[NormStatistics] = []
    for switch in switches:
        switch()
        others.append(NormStatistics(named_batch_norms(network), first))
    passes = [*runs]
    with evaluating(network):
        for run in passes:
            reference()
            with first.fitting(keep=not fit_reference):
                run(network)
            for switch, statistics in zip(switches, others, strict=True):
                switch()
                with statistics.fitting():
                    run(network)
    if not fit_reference:
        first.restore()
    for statistics in others:
        statistics.restore()
    pairs, compared = [*zip(switches, others, strict=True)], passes[-COMPARED:]
    with evaluating(network), torch.no_grad():
        reference()
        wanted = [[*tensors_of(run(network))] for run in compared]
        better = [one for switch, one in pairs if fits_better(network, switch, one, compared, wanted)]
    for statistics in better:  # whose norms may be the reference's
        statistics.write()


@torch.no_grad()
def fits_better(
    network: nn.Module,
    switch: Callable[[], None],
    statistics: NormStatistics,
    runs: Sequence[Run],
    wanted: Sequence[Sequence[Tensor]],
) -> bool:
    """True if fitted statistics bring a mode's outputs closer to the reference's than those that were stored.

    By the squared difference over all outputs. What hardly any data went into is always replaced.

    Args:
        network: in evaluation mode, with the stored statistics, which it has at the end, too.
        switch: makes it run in the mode.
        statistics: of the mode, fitted.
        runs: forward passes, each called with the network.
        wanted: for each of them the reference's outputs, of any shape; none: there is nothing to compare.
    """
    if not any(wanted) or any(record.fresh for record in statistics.records.values()):
        return True
    off = {statistics.restore: 0.0, statistics.write: 0.0}
    switch()
    for use in off:
        use()
        for run, outputs in zip(runs, wanted, strict=True):
            pairs = zip(tensors_of(run(network)), outputs, strict=True)
            off[use] += sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
    statistics.restore()
    stored, fitted = off.values()
    return fitted < stored


def norms_are_copies(model: nn.Module) -> bool:
    """True if all modes still have one and the same statistics, the float network's: none was trained."""
    norms = [module.norms for module in model.modules() if isinstance(module, PerModeNorm)]
    pairs = [(first, other) for first, *rest in (held.values() for held in norms) for other in rest]
    states = [(first.state_dict(), other.state_dict()) for first, other in pairs]
    return bool(states) and all(torch.equal(one[n], two[n]) for one, two in states for n in one)


def has_fresh_norms(model: nn.Module) -> bool:
    """True if the statistics of a norm that runs were never trained."""
    return any(is_fresh(norm) for norm in active_batch_norms(model))
