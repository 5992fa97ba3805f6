"""The file of a reconstruction's progress: what is done is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantizable.bits import BitMode
from quantizable.calibrate import Run
from quantizable.interface.damage import check_entries
from quantizable.network import QuantizableNetwork
from quantizable.nn.network_inputs import Inputs, tensors_of
from quantizable.report.files import check_target, written_whole
from quantizable.storage.digests import digest_network, digest_tensors
from quantizable.training.own_parts import OwnSteps


class Kept:
    """A file with what was rounded and learned so far, which belongs to one network, its data and settings.

    Args:
        path: the file; it need not be there.
        settings: plain values; a file of other ones is refused.

    Attributes:
        rounded: by mode, what its own tensors were when learning began; empty: it has not begun.

    Raises:
        ValueError: the file is damaged, or of other settings.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = check_target(path), settings
        self.rounded: dict[str, list[Tensor]] = {}
        self.steps: dict[str, Any] | None = None
        if not self.path.exists():
            return
        check_entries(self.path)
        try:
            held = torch.load(self.path, map_location="cpu", weights_only=True)
            self.rounded, self.steps, before = held["rounded"], held["steps"], held["settings"]
        except Exception as error:  # damaged bytes fail in any way
            raise ValueError(f"{path} holds no progress of a reconstruction; name another file") from error
        if before != settings:
            different = ", ".join(sorted(key for key in settings if before.get(key) != settings[key]))
            raise ValueError(f"{path} was begun with other {different}; name another file, or remove it")

    def read(self, steps: OwnSteps) -> None:
        """Go on from the steps that the file holds, if there are any."""
        if self.steps is not None:
            steps.load_state_dict(self.steps)

    def write(self, steps: OwnSteps | None = None) -> None:
        """Keep what was rounded and what these steps learned, whole or not at all."""
        held = {"settings": self.settings, "rounded": self.rounded}
        with written_whole(self.path) as temporary:
            torch.save(held | {"steps": steps.state_dict() if steps else None}, temporary)


def settings(
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
