"""Norms kept per bit mode (bit-specific Batch Normalization).

Du et al., "From Quantized DNNs to Quantizable DNNs", BMVC 2020: the outputs of a matrix product are
distributed differently in every mode, so each mode keeps its own statistics and affine parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import GroupNormAct, LayerNormAct, RmsNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from quantizable.bits import BitMode

NORM_CLASSES: tuple[type[nn.Module], ...] = (
    _BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm, LayerNormAct, GroupNormAct,
)  # fmt: skip
SHARING = ("per_mode", "shared_affine", "shared")


def is_norm(module: nn.Module) -> bool:
    """True for the norms that are kept per mode: batch, layer, group and RMS norm, timm's with activation too."""
    return isinstance(module, NORM_CLASSES) and not isinstance(module, _InstanceNorm)


class PerModeNorm(nn.Module):
    """One copy of a norm, whatever its class, for each mode; the active one does the work.

    The pointer ``active`` is not a registered submodule: switching changes no keys and needs no new
    compiled graph. ``set_bits`` looks it up anew, so that it survives ``convert_sync_batchnorm``.

    Args:
        norm: the float norm; it becomes the copy of the highest mode.
        modes: the modes, from the lowest to the highest.
        shared_affine: one affine weight and bias for all modes (for ablation); only the statistics
            are kept per mode then.
    """

    active: nn.Module

    def __init__(self, norm: nn.Module, modes: Sequence[BitMode], shared_affine: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleDict()
        for mode in modes:
            self.norms[mode.name] = norm if mode == modes[-1] else copy.deepcopy(norm)
        if shared_affine:
            for other in self.norms.values():
                for name, parameter in norm.named_parameters(recurse=False):
                    other.register_parameter(name, parameter)
        self.set_bits(modes[-1])

    @property
    def modes(self) -> list[BitMode]:
        """The modes it holds."""
        return [BitMode.parse(name) for name in self.norms]

    def set_bits(self, mode: BitMode) -> None:
        """Make the copy of ``mode`` the active one; ``KeyError`` if there is none."""
        object.__setattr__(self, "active", self.norms[mode.name])

    def add_mode(self, mode: BitMode, like: BitMode) -> None:
        """Add a copy for ``mode`` that starts as the one of ``like``."""
        self.norms[mode.name] = copy.deepcopy(self.norms[like.name])

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.active(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # what a network reads off a norm (`bn.weight`, `norm.eps`) is the active one's
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "active" or name.startswith("__") or "active" not in self.__dict__:
                raise
            return getattr(self.__dict__["active"], name)
