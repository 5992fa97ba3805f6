"""A weight that code transposes before it multiplies by it, as ``x @ self.weight.t()``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TRANSPOSITIONS = {
    torch.t, Tensor.t, torch.transpose, Tensor.transpose, torch.permute, Tensor.permute,
    torch.swapaxes, Tensor.swapaxes, torch.swapdims, Tensor.swapdims,
    Tensor.T.__get__, Tensor.mT.__get__,  # type: ignore[attr-defined]
}  # fmt: skip


def is_transposed(func: Any, weight: Tensor, result: Any) -> bool:
    """True if ``func(weight, ...)`` gave the matrix ``weight`` transposed."""
    return (
        func in TRANSPOSITIONS
        and weight.dim() == 2
        and result.shape == weight.shape[::-1]
        and result.stride() == weight.stride()[::-1]
    )
