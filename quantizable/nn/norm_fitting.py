"""Batch norms of several modes fitted to data, and kept where that brings a mode closer to the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.nn.network_inputs import tensors_of
from quantizable.nn.norm_statistics import NormStatistics, active_batch_norms, is_fresh, named_batch_norms
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.passes import evaluating
from quantizable.nn.watching import watching

Run = Callable[[Any], Any]  # a forward pass, called with the network
NormOutputs = dict[tuple[str, int], Tensor]
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
        in_reference = partial(outputs_of_norms, reference, first)
        reference()
        wanted = [[*tensors_of(run(network))] for run in compared]
        better = [
            one for switch, one in pairs
            if fits_better(network, switch, one, compared, wanted, in_reference)
        ]  # fmt: skip
    for statistics in better:  # whose norms may be the reference's
        statistics.write()


@torch.no_grad()
def fits_better(
    network: nn.Module,
    switch: Callable[[], None],
    statistics: NormStatistics,
    runs: Sequence[Run],
    wanted: Sequence[Sequence[Tensor]],
    in_reference: Callable[[nn.Module, Run], NormOutputs],
) -> bool:
    """True if fitted statistics bring a mode's outputs closer to the reference's than those that were stored.

    By the squared difference over all outputs; where each mode gives its own shapes, as the boxes that a
    detector finds, over what the norms give. What hardly any data went into is always replaced.

    Args:
        network: in evaluation mode, with the stored statistics, which it has at the end, too.
        switch: makes it run in the mode.
        statistics: of the mode, fitted.
        runs: forward passes, each called with the network.
        wanted: for each of them the reference's outputs, of any shape; none: there is nothing to compare.
        in_reference: gives what the reference's norms give in a forward pass; leaves the network in its mode.
    """
    if not any(wanted) or any(record.fresh for record in statistics.records.values()):
        return True
    off = {statistics.restore: 0.0, statistics.write: 0.0}
    switch()
    for use in off:
        use()
        for run, outputs in zip(runs, wanted, strict=True):
            found = [*tensors_of(run(network))]
            if [x.shape for x in found] != [x.shape for x in outputs]:
                return _norms_fit_better(network, switch, statistics, runs, in_reference)
            off[use] += sum(_squared(a, b) for a, b in zip(found, outputs, strict=True))
    statistics.restore()
    stored, fitted = off.values()
    return fitted < stored


def _norms_fit_better(
    network: nn.Module,
    switch: Callable[[], None],
    statistics: NormStatistics,
    runs: Sequence[Run],
    in_reference: Callable[[nn.Module, Run], NormOutputs],
) -> bool:
    """As :func:`fits_better`, by what the norms give, each in units of what it gives in the reference."""
    off = {statistics.restore: 0.0, statistics.write: 0.0}
    for run in runs:
        statistics.restore()  # these norms may be the reference's
        wanted = in_reference(network, run)
        for use in off:
            use()
            for key, found in outputs_of_norms(switch, statistics, network, run).items():
                if key in wanted and wanted[key].shape == found.shape:
                    scale = float(wanted[key].float().square().sum()) or 1.0
                    off[use] += _squared(found, wanted[key]) / scale
    statistics.restore()
    stored, fitted = off.values()
    return fitted < stored


def outputs_of_norms(
    switch: Callable[[], None], statistics: NormStatistics, network: nn.Module, run: Run
) -> NormOutputs:
    """What each norm of an assignment gives in a forward pass, by its name and the number of its call."""
    found: NormOutputs = {}

    def note(name: str, _: nn.Module, inputs: Any, output: Tensor) -> None:
        found[name, sum(one == name for one, _ in found)] = output

    switch()
    with watching(statistics.norms, note):
        run(network)
    return found


def _squared(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().sum())


def norms_are_copies(model: nn.Module) -> bool:
    """True if all modes still have one and the same statistics, the float network's: none was trained."""
    norms = [module.norms for module in model.modules() if isinstance(module, PerModeNorm)]
    pairs = [(first, other) for first, *rest in (held.values() for held in norms) for other in rest]
    states = [(first.state_dict(), other.state_dict()) for first, other in pairs]
    return bool(states) and all(torch.equal(one[n], two[n]) for one, two in states for n in one)


def has_fresh_norms(model: nn.Module) -> bool:
    """True if the statistics of a norm that runs were never trained."""
    return any(is_fresh(norm) for norm in active_batch_norms(model))
