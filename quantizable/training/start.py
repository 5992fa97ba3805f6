"""What a new run takes from the checkpoint that it starts from."""

from __future__ import annotations

import logging

from quantizable.network import QuantizableNetwork
from quantizable.storage.checkpoint import load_checkpoint, load_network, read_checkpoint

log = logging.getLogger(__name__)


def start_from(network: QuantizableNetwork, path: str) -> None:
    """Take all modes of a run's checkpoint, in place; where it lacks one, the weights and norms of its
    highest mode, and step sizes start anew.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or one of another network.
    """
    held = set(read_checkpoint(path)["quantizable"]["modes"])
    missing = [mode.name for mode in network.modes if mode.name not in held]
    if not missing:
        load_network(network, path)
        return
    log.info("%s lacks mode %s: float weights are taken, step sizes start anew", path, ", ".join(missing))
    try:
        network.load_state_dict(load_checkpoint(path).to_float().state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(f"{path} does not fit the network: {reason}") from error
