"""What ``--bits`` names: modes of a network and assignment files, each with the network that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantizable.bits import BitMode, parse_modes
from quantizable.data.base import DataModule, ImageDataModule
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.storage.assignment import SavedAssignment, read_assignment

FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Chosen:
    """One mode, or one assignment.

    Attributes:
        name: ``"4"``, ``"w4a8"``, an assignment's, or the file's name without its ending.
        network: that runs it, in evaluation mode: for a mode, and for an assignment that the network holds,
            the network itself, for that of a file a copy, because its norms are no mode's.
        bits: a mode, an assignment's name, or the mapping of a file, as ``network.set_bits`` takes it.
    """

    name: str
    network: QuantizableNetwork
    bits: Assignment


def choose(
    text: str | None,
    network: QuantizableNetwork,
    data: Callable[[], DataModule],
    default: Iterable[BitMode] | None = None,
    norms: tuple[int, float] | None = None,
) -> list[Chosen]:
    """What ``--bits 4,32,found,other.yaml`` names: files, then assignments that it holds, then modes.

    Files and assignments in the order given, modes from the lowest to the highest, which others are compared
    with.

    Args:
        text: modes, assignments that the network holds, and files of ``quantizable search bits``, with
            commas between them; None: ``default``, and all assignments that it holds.
        network: in evaluation mode; it is left as it is.
        data: gives the data that the network was trained on; asked only if a file wants its norms fitted.
        default: modes; by default all of the network.
        norms: training batches, at least 1, and sigma of their noise (pixels of [0, 1]), to fit the norms of
            files with; None: what each file says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a mode that the network lacks, one named twice, or a file that is no assignment of this
            network; said before any norm is fitted.
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    paths = [Path(word) for word in words if word.endswith(FILES)]
    assignments = [word for word in words if word in network.assignments]
    named = [word for word in words if not word.endswith(FILES) and word not in assignments]
    if text is None:
        modes, assignments = list(network.modes if default is None else default), [*network.assignments]
    else:
        modes = [network.check_mode(mode) for mode in parse_modes(named)] if named else []
    names = [*(path.stem for path in paths), *assignments, *(mode.name for mode in modes)]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{text} names {', '.join(doubles)} twice; their results could not be told apart")
    saved = [read_assignment(path, network) for path in paths]
    if norms is not None:
        saved = [replace(one, norm_batches=norms[0], norm_noise=norms[1]) for one in saved]
    fitted = [
        Chosen(path.stem, _fitted(path, one, network, data), one.bits)
        for path, one in zip(paths, saved, strict=True)
    ]
    own = [Chosen(name, network, name) for name in assignments]
    return fitted + own + [Chosen(mode.name, network, mode) for mode in modes]


def _fitted(
    path: Path, saved: SavedAssignment, network: QuantizableNetwork, data: Callable[[], DataModule]
) -> QuantizableNetwork:
    own = deepcopy(network)
    batches: Iterable[Any] = ()
    std: Sequence[float] = (1.0,)
    if saved.norm_batches:
        datamodule = data()
        datamodule.prepare_data()
        datamodule.setup("fit")
        batches = datamodule.train_dataloader()
        if isinstance(datamodule, ImageDataModule):
            std = datamodule.std
    try:
        saved.apply(own, batches, std)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return own
