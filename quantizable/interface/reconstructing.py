"""How modes are reconstructed. The method is here, on the network; what it does is in ``training``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any


class Reconstructing:
    """Brings the low modes of a network closer to its float mode, without labels."""

    def reconstruct(
        self,
        loader: Iterable[Any],
        batches: int = 32,
        modes: Iterable[Any] | None = None,
        *,
        passes: int = 3,
        seed: int = 0,
        progress: str | Path | None = None,
        forward: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """Fit what each mode has of its own, so that its blocks give what those of mode 32 give.

        First the weights of each layer are rounded so that its outputs stay. That takes seconds, and the
        mode's batch norms are re-estimated for it. Then step sizes, the norms' weights and biases, and which
        weights are rounded up and which down are learned in some passes. Weights stay as they are, and mode
        32 gives the same outputs, bit for bit. After each of the two a mode whose outputs do not come closer
        to it on the last 4 batches, which are held out if there are more than 8, is put back. Calibrate
        first, and re-estimate the norms. Formulas and sources: ``training/reconstruction.py`` and
        ``training/rounding.py``.

        Args:
            loader: yields batches, read as :func:`~quantizable.nn.network_inputs.network_inputs` says; some
                hundred images in batches of about 8 are good.
            batches: how many batches to look at, at least 1.
            modes: which modes; None: all. What two modes use stays as it is, as the step sizes of the first
                and the last layer; so each mode learns the same, whichever others do.
            passes: of the learning over the batches; 0: it is left out.
            seed: of the order of the batches.
            progress: a file that keeps what is rounded, and what is learned after each pass; a run that was
                stopped goes on from it, as if it had not been. The network must be the one that the run
                began with.
            forward: ``forward(network, batch)`` runs the network on a batch, where no reading fits.

        Raises:
            ValueError: no float mode, no calibration, no such mode, nothing to learn, a number out of range,
                unusable batches (as for ``calibrate``), or a progress file of another run.
            OSError: the progress file cannot be written.
        """
        import_module("quantizable.training.reconstruction").reconstruct(  # it is above the network
            self, loader, batches, modes, passes=passes, seed=seed, progress_file=progress, forward=forward
        )
