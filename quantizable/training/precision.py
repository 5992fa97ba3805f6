"""The number type and memory layout in which a machine trains fastest, from the units it has.

Under autocast only the matrix products change their type: codes of fake quantization are computed in
float32 whatever is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from quantizable.training.accelerator import no_gpu

# as torch.cpu.get_capabilities() names them; elsewhere bf16 products are emulated and slower than float32
CPU_BF16_UNITS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")


class Execution(NamedTuple):
    """How to run the matrix products.

    Attributes:
        precision: as Lightning's ``Trainer(precision=...)`` takes it: ``"bf16-mixed"`` or ``"32-true"``.
        memory_format: of images and convolution weights; oneDNN and tensor cores want channels last.
        reason: why this precision, one line for the log.
    """

    precision: str
    memory_format: torch.memory_format
    reason: str

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network with its 4-d parameters in the memory layout, in place."""
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dim() == 4:  # network.to(memory_format=...) fails for weights of 3D convolutions
                tensor.data = tensor.data.contiguous(memory_format=self.memory_format)
        return network


def check_accelerator(accelerator: str) -> None:
    """``ValueError`` if a GPU is asked for and torch finds none; said before data are read."""
    found = torch.cuda.is_available() or (accelerator == "gpu" and torch.backends.mps.is_available())
    if accelerator in ("gpu", "cuda") and not found:
        raise no_gpu(accelerator)


def fastest_execution(accelerator: str = "auto", capabilities: Mapping[str, Any] | None = None) -> Execution:
    """bf16 where the device has units for it, else float32; channels last in both.

    Args:
        accelerator: ``"cpu"``, ``"gpu"`` or ``"cuda"``, or ``"auto"`` (a CUDA GPU if there is one, else
            Apple's GPU, else the CPU). Any other runs in float32.
        capabilities: of the CPU; None asks ``torch.cpu.get_capabilities()``.
    """
    layout = torch.channels_last
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Execution("bf16-mixed", layout, "bf16: the GPU has bf16 units")
        return Execution("32-true", layout, "float32: the GPU has no bf16 units")
    if accelerator in ("auto", "gpu") and torch.backends.mps.is_available():
        accelerator = "mps"  # as Lightning takes it: what the CPU can do has no say
    if accelerator in ("auto", "cpu"):
        known = torch.cpu.get_capabilities() if capabilities is None else capabilities
        if units := [unit for unit in CPU_BF16_UNITS if known.get(unit)]:
            return Execution("bf16-mixed", layout, f"bf16: the CPU has {', '.join(units)}")
        return Execution("32-true", layout, "float32: the CPU has no bf16 units")
    return Execution("32-true", layout, f"float32: nothing is known of {accelerator!r}")
