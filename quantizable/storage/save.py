"""A network to a checkpoint as training writes it, without what only training needs."""

from __future__ import annotations

from pathlib import Path

import torch

from quantizable.network import QuantizableNetwork
from quantizable.report.files import written_whole
from quantizable.storage.checkpoint import FORMAT
from quantizable.storage.preprocessing import preprocessing
from quantizable.storage.qz import UNNAMED, describe_architecture


def save_checkpoint(network: QuantizableNetwork, path: str | Path) -> None:
    """Write all modes of a network to a file that :func:`quantizable.load` reads.

    Args:
        network: what ``load`` gave, or a network of timm's; else the file loads with ``model=...`` alone.
        path: the file to write, by custom ``*.ckpt``.

    Raises:
        OSError: the file cannot be written.
    """
    data = {**preprocessing(network), **network.info}
    about = {
        "format": FORMAT,
        **(describe_architecture(network) or UNNAMED),
        "quantize": network.config,
        "modes": [mode.name for mode in network.modes],
        "data": {key: value for key, value in data.items() if key not in UNNAMED},
    }
    state = {f"network.{key}": value.detach().cpu() for key, value in network.state_dict().items()}
    with written_whole(path) as temporary:
        torch.save({"quantizable": about, "state_dict": state}, temporary)
