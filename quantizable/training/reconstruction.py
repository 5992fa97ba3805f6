"""Block reconstruction of all modes together, without labels: each block is to give what it gives in float.

After calibration a mode is off because errors of many layers add up. Here every mode learns what it has of
its own against the outputs of the blocks of the highest mode on the same images, mode 32::

    loss of a mode = sum over blocks of |out - out_32|^2 / var(out_32)

which is BRECQ's loss (Li et al., ICLR 2021) for all blocks in one pass, on inputs as the mode itself makes
them (as in QDrop, Wei et al., ICLR 2022). What is learned: step sizes of weights and activations (LSQ, Esser
et al., ICLR 2020), which choose how much is clipped; the norms' weights and biases, which correct the scale
and the bias of each channel; and what is added to weights before they are rounded (AdaQuant, Hubara et al.,
ICML 2021), at most one step, which chooses between up and down as AdaRound does (Nagel et al., ICML 2020).

A mode whose outputs do not come closer is left as it was, judged by batches that it was not fitted to where
there are enough. Weights are shared with the float mode and stay. So cross-layer equalization, which scales
them, has no place here; step sizes per channel do the same for them.
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
from quantizable.interface.damage import check_entries
from quantizable.interface.progress import progress
from quantizable.network import QuantizableNetwork
from quantizable.nn.blocks import named_blocks
from quantizable.nn.network_inputs import Inputs, tensors_of
from quantizable.nn.passes import evaluating
from quantizable.nn.watching import watching
from quantizable.report.files import check_target, written_whole
from quantizable.seeds import generator
from quantizable.storage.digests import digest_network, digest_tensors
from quantizable.training.own_parts import OwnSteps, Part, drop_empty_corrections, own_parts

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
    if passes < 1:
        raise ValueError(f"passes is {passes}; at least 1 is needed")
    asked = _modes(network, modes)
    runs = [*first_runs(network, loader, batches, next(network.parameters()).device, forward)]
    kept = Kept(progress_file, _settings(network, runs, asked, passes, seed)) if progress_file else None
    compared = runs[-COMPARED:] if len(runs) > 2 * COMPARED else runs
    runs = runs[:-COMPARED] if len(runs) > 2 * COMPARED else runs
    own = own_parts(network, asked)
    parts = {name: part for mode in asked for name, part in own[mode].items()}
    if not parts:
        named = ", ".join(mode.name for mode in asked)
        raise ValueError(f"mode {named} has no step sizes and no norms of its own that could be learned")
    steps = OwnSteps(parts, passes * len(runs))
    with evaluating(network), _learnable(network, parts):
        try:
            before = _off(network, compared, asked)
            if kept:
                kept.read(steps)
            for step in progress(range(steps.taken, steps.count), "reconstructing"):
                number, place = divmod(step, len(runs))
                order = torch.randperm(len(runs), generator=generator("reconstruction", seed, number))
                _visit(network, runs[int(order[place])], asked)
                steps.step()
                if kept and place == len(runs) - 1:
                    kept.write(steps)
            after = _off(network, compared, asked)
            for mode in asked:
                if not after[mode] < before[mode]:
                    steps.undo(own[mode])
        except BaseException:  # a stop by hand too: a mode that is half learned is no mode
            steps.undo()
            raise
        finally:
            drop_empty_corrections(network)


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


class Kept:
    """A file with what was learned so far, which belongs to one network, its data and its settings.

    Args:
        path: the file; it need not be there.
        settings: plain values; a file of other ones is refused.

    Raises:
        ValueError: the file is damaged, or of other settings.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = check_target(path), settings
        self.state: dict[str, Any] | None = None
        if not self.path.exists():
            return
        check_entries(self.path)
        try:
            held = torch.load(self.path, map_location="cpu", weights_only=True)
            self.state, before = held["steps"], held["settings"]
        except Exception as error:  # damaged bytes fail in any way
            raise ValueError(f"{path} holds no progress of a reconstruction; name another file") from error
        if before != settings:
            different = ", ".join(sorted(key for key in settings if before.get(key) != settings[key]))
            raise ValueError(f"{path} was begun with other {different}; name another file, or remove it")

    def read(self, steps: OwnSteps) -> None:
        """Go on from what the file holds, if there is one."""
        if self.state is not None:
            steps.load_state_dict(self.state)

    def write(self, steps: OwnSteps) -> None:
        """Keep what was learned so far, whole or not at all."""
        with written_whole(self.path) as temporary:
            torch.save({"settings": self.settings, "steps": steps.state_dict()}, temporary)


def _settings(
    network: QuantizableNetwork, runs: Sequence[Run], modes: Sequence[BitMode], passes: int, seed: int
) -> dict[str, Any]:
    """What a run that goes on must have in common with the one that began."""
    return {
        "network": digest_network(network),
        "batches": digest_tensors([x for run in runs for x in _tensors(run)]),
        "modes": [mode.name for mode in modes],
        "passes": passes,
        "seed": seed,
    }


def _tensors(run: Run) -> Iterator[Tensor]:
    """What a pass runs on; of one by ``forward=`` what is in the batch."""
    return run.tensors() if isinstance(run, Inputs) else tensors_of(getattr(run, "args", ()))
