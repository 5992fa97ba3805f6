"""Whether a GPU that a run asks for can be there, said before torch is imported."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

AMD = Path("/dev/kfd")  # the device of AMD's GPUs
NVIDIA = "libcuda.so.1"  # the driver's library


def no_gpu(accelerator: str) -> ValueError:
    """What is raised where a GPU is asked for and there is none."""
    return ValueError(
        f"trainer.accelerator={accelerator}: torch finds no GPU here; leave it out, or give trainer=cpu"
    )


def check_gpu(accelerator: str) -> None:
    """``ValueError`` if a GPU is asked for on a Linux machine without the driver of any.

    Where there is a driver, and on other systems, only torch can tell; see
    :func:`quantizable.training.precision.check_accelerator`.
    """
    if accelerator not in ("gpu", "cuda") or sys.platform != "linux" or AMD.exists():
        return
    try:
        ctypes.CDLL(NVIDIA)
    except OSError as error:
        raise no_gpu(accelerator) from error
