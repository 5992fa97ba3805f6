"""Two processes of one test, forked off one that has imported everything: most of the time of a new one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def run_in_two(function: Callable[..., None], *args: Any) -> None:
    """Call ``function(rank, *args)`` for the ranks 0 and 1; an error in one of them is raised here."""
    multiprocessing.set_forkserver_preload(["quantizable.training.classifier"])
    mp.start_processes(function, args, nprocs=2, start_method="forkserver")
