"""The state of torch's random generators, in plain tensors that a checkpoint keeps."""

from __future__ import annotations

from typing import Any

import torch


def random_state() -> dict[str, Any]:
    """The state on the processor, ``"cpu"``, and of each GPU, ``"cuda"``."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from a state of :func:`random_state`; of GPUs as far as they are here."""
    torch.set_rng_state(state["cpu"].cpu())
    for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one.cpu(), device)
