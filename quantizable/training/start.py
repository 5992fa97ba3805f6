"""What a new run takes from the checkpoint that it starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from quantizable.network import QuantizableNetwork
from quantizable.storage.checkpoint import fill_network, load_checkpoint, load_network
from quantizable.storage.network_file import read_about

log = logging.getLogger(__name__)


def start_from(network: QuantizableNetwork, path: str) -> None:
    """Take all modes of a run's checkpoint, in place; where it lacks one, the weights and norms of its
    highest mode, and step sizes start anew.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or one of another network.
    """
    about = read_about(Path(path))
    missing = [mode.name for mode in network.modes if about and mode.name not in about["modes"]]
    if not missing:
        load_network(network, path)
        return
    log.info("%s lacks mode %s: float weights are taken, step sizes start anew", path, ", ".join(missing))
    fill_network(network, load_checkpoint(path).to_float().state_dict(), path)
