"""Reconstruction of all modes together, without labels: each block is to give what it gives in float.

After calibration a mode is off because errors of many layers add up. Two steps bring it closer, on the same
images. First the weights of each layer are rounded so that its outputs stay (``rounding.py``), and the mode's
norms are fitted to that. Then every mode learns what it has of its own against the outputs of the blocks of
the highest mode, mode 32::

    loss of a mode = sum over blocks of |out - out_32|^2 / var(out_32)

which is BRECQ's loss (Li et al., ICLR 2021) for all blocks in one pass, on inputs as the mode itself makes
them (as in QDrop, Wei et al., ICLR 2022). What is learned: step sizes of weights and activations (LSQ, Esser
et al., ICLR 2020), which choose how much is clipped; the norms' weights and biases, which correct the scale
and the bias of each channel; and what is added to weights before they are rounded (AdaQuant, Hubara et al.,
ICML 2021), at most one step more, which chooses between up and down as AdaRound does (Nagel et al., ICML
2020).

After each step a mode whose outputs did not come closer is put back, judged by batches that it was not fitted
to where there are enough. Weights are shared with the float mode and stay. So cross-layer equalization, which
scales them, has no place here; step sizes per channel do the same for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantizable.bits import BitMode, ModeLike
from quantizable.calibrate import Forward, Run, check_calibrated, first_runs
from quantizable.interface.progress import progress
from quantizable.network import QuantizableNetwork
from quantizable.nn.blocks import named_blocks
from quantizable.nn.network_inputs import tensors_of
from quantizable.nn.passes import evaluating
from quantizable.nn.watching import watching
from quantizable.seeds import generator
from quantizable.training.own_parts import (
    CORRECTION,
    OwnState,
    OwnSteps,
    Part,
    drop_empty_corrections,
    own_parts,
)
from quantizable.training.reconstruction_progress import Kept, settings
from quantizable.training.rounding import round_weights

SMALLEST = 1e-12  # of a variance: a block may give a constant
COMPARED = 4  # batches, the last, on which outputs must come closer; held out where there are enough


def reconstruct(
    network: QuantizableNetwork,
    loader: Iterable[Any],
    batches: int = 32,
    modes: Iterable[ModeLike] | None = None,
    *,
    passes: int = 3,
    seed: int = 0,
    progress_file: str | Path | None = None,
    forward: Forward | None = None,
) -> None:
    """As :meth:`quantizable.interface.reconstructing.Reconstructing.reconstruct`."""
    if passes < 0:
        raise ValueError(f"passes is {passes}; 0 or more are needed")
    asked = _modes(network, modes)
    runs = [*first_runs(network, loader, batches, next(network.parameters()).device, forward)]
    kept = Kept(progress_file, settings(network, runs, asked, passes, seed)) if progress_file else None
    compared = runs[-COMPARED:] if len(runs) > 2 * COMPARED else runs
    runs = runs[:-COMPARED] if len(runs) > 2 * COMPARED else runs
    own = own_parts(network, asked)
    if not any(own.values()):
        named = ", ".join(mode.name for mode in asked)
        raise ValueError(f"mode {named} has no step sizes and no norms of its own that could be learned")
    states = {mode: OwnState(network, mode, own[mode]) for mode in asked}
    begun = {mode: state.copies() for mode, state in states.items()}
    with evaluating(network):
        try:
            if kept and kept.rounded:
                for mode, state in states.items():
                    state.put(kept.rounded[mode.name])
            else:
                for mode, state in progress(states.items(), "rounding"):
                    if not _round(network, runs, compared, mode, own[mode], state.has_all_norms):
                        state.put(begun[mode])
                if kept:
                    kept.rounded = {mode.name: state.copies() for mode, state in states.items()}
                    kept.write()
            _learn(network, runs, compared, own, passes, seed, kept)
        except BaseException:  # a stop by hand too: a mode that is half learned is no mode
            for mode, state in states.items():
                state.put(begun[mode])
            raise
        finally:
            drop_empty_corrections(network)


def _round(
    network: QuantizableNetwork,
    runs: Sequence[Run],
    compared: Sequence[Run],
    mode: BitMode,
    parts: dict[str, Part],
    fit_norms: bool,
) -> bool:
    """Round the weights of a mode and fit its norms to that; True if that brings it closer."""
    corrections = [part.value for name, part in parts.items() if name.endswith(f".{CORRECTION}")]
    if not corrections:
        return True  # nothing was changed
    before = _off(network, compared, [mode])
    round_weights(network, runs, mode, corrections)
    if fit_norms:
        network.reestimate_norms(runs, [mode], len(runs), forward=lambda network, run: run(network))
    return _off(network, compared, [mode])[mode] < before[mode]


def _learn(
    network: QuantizableNetwork,
    runs: Sequence[Run],
    compared: Sequence[Run],
    own: dict[BitMode, dict[str, Part]],
    passes: int,
    seed: int,
    kept: Kept | None,
) -> None:
    """Learn in some passes over the images, and put the modes back that come no closer."""
    if not passes:
        return
    parts = {name: part for held in own.values() for name, part in held.items()}
    steps, before = OwnSteps(parts, passes * len(runs)), _off(network, compared, [*own])
    with _learnable(network, parts):
        if kept:
            kept.read(steps)
        for step in progress(range(steps.taken, steps.count), "reconstructing"):
            number, place = divmod(step, len(runs))
            order = torch.randperm(len(runs), generator=generator("reconstruction", seed, number))
            _visit(network, runs[int(order[place])], [*own])
            steps.step()
            if kept and place == len(runs) - 1:
                kept.write(steps)
    after = _off(network, compared, [*own])
    for mode, held in own.items():
        if not after[mode] < before[mode]:
            steps.undo(held)


def _modes(network: QuantizableNetwork, modes: Iterable[ModeLike] | None) -> list[BitMode]:
    """The modes to learn, from the lowest; ``ValueError`` if one cannot be, or was not calibrated."""
    *lower, top = network.modes
    if not top.is_float:
        raise ValueError(
            f"reconstruction compares with mode 32, which the network lacks (its highest is {top.name}); "
            "make it with mode 32, as quantize(model, bits=[4, 8, 32])"
        )
    asked = lower if modes is None else sorted({network.check_mode(mode) for mode in modes})
    if top in asked or not asked:
        raise ValueError(
            "mode 32 is what the others are compared with; name lower modes that the network has"
        )
    for mode in asked:
        with network.at_bits(mode):
            check_calibrated(network.model)
    return asked


def _visit(network: QuantizableNetwork, run: Run, modes: Sequence[BitMode]) -> None:
    """Add the gradients of each mode on one batch."""
    with network.at_bits(network.modes[-1]), torch.no_grad():
        wanted = _outputs(network, run)
    for mode in modes:
        with network.at_bits(mode), torch.enable_grad():
            distance(_outputs(network, run), wanted).backward()


@torch.no_grad()
def _off(network: QuantizableNetwork, runs: Sequence[Run], modes: Sequence[BitMode]) -> dict[BitMode, float]:
    """How far the outputs of each mode are off, summed over some batches."""
    off = dict.fromkeys(modes, 0.0)
    for run in runs:
        with network.at_bits(network.modes[-1]):
            wanted = _outputs(network, run)[-1:]
        for mode in modes:
            with network.at_bits(mode):
                off[mode] += float(distance(_outputs(network, run)[-1:], wanted))
    return off


def _outputs(network: QuantizableNetwork, run: Run) -> list[Tensor]:
    """What the blocks give out, in the order in which they are called, and the network at the end."""
    found: list[Tensor] = []

    def note(_: str, __: nn.Module, ___: Any, output: Any) -> None:
        found.extend(tensors_of(output))

    with watching(named_blocks(network.model), note):
        output = run(network)
    return [x for x in [*found, *tensors_of(output)] if x.is_floating_point()]


def distance(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The sum over blocks of the mean squared difference, relative to the variance of what is wanted."""
    pairs = zip(outputs, wanted, strict=True)
    return torch.stack([(x - y).square().mean() / y.var().clamp_min(SMALLEST) for x, y in pairs]).sum()


@contextmanager
def _learnable(network: QuantizableNetwork, parts: dict[str, Part]) -> Iterator[None]:
    """Gradients for these parts and for nothing else within a ``with`` block."""
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    for part in parts.values():
        part.value.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
