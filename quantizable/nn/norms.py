"""Norms kept per bit mode (bit-specific Batch Normalization).

Du et al., "From Quantized DNNs to Quantizable DNNs", BMVC 2020: the outputs of a matrix product are
distributed differently in every mode, so each mode keeps its own statistics and affine parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNormAct, RmsNorm, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from quantizable.bits import BitMode
from quantizable.nn.recomputation import Recomputable

NORM_CLASSES: tuple[type[nn.Module], ...] = (
    _BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm, LayerNormAct, GroupNormAct,
)  # fmt: skip
PLAIN_FORWARDS = {
    kind.forward for kind in (_BatchNorm, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)
}  # fmt: skip
SHARING = ("per_mode", "shared_affine", "shared")


def is_norm(module: nn.Module) -> bool:
    """True for the norms that are kept per mode: batch, layer, group, RMS norm; timm's with activation."""
    return isinstance(module, NORM_CLASSES) and not isinstance(module, _InstanceNorm)


def is_plain(norm: nn.Module) -> bool:
    """True for batch norms that do no more than torch's own, or timm's with an activation behind it."""
    return isinstance(norm, _BatchNorm) and type(norm).forward in PLAIN_FORWARDS


def scale_and_bias(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` (float64, one per channel) of ``norm(x) = a x + b`` in evaluation mode.

    Raises:
        ValueError: the norm has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics depends on the batch; track them")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = -norm.running_mean.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.detach().double()
    return scale, bias


class PerModeNorm(Recomputable):
    """One copy of a norm, whatever its class, for each mode; the active one does the work.

    The pointer ``active`` is not a registered submodule: switching changes no keys and needs no new
    compiled graph.

    Args:
        norm: the float norm; it becomes the copy of the highest mode.
        modes: the modes, from the lowest to the highest.
        shared_affine: one affine weight and bias for all modes (for ablation); only the statistics
            are kept per mode then.
    """

    active: nn.Module
    mode: BitMode | str

    def __init__(self, norm: nn.Module, modes: Sequence[BitMode], shared_affine: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleDict()
        self.held: list[BitMode | str] = [*modes]
        for mode in modes:
            self.norms[mode.name] = norm if mode == modes[-1] else copy.deepcopy(norm)
        self.train(norm.training)
        self.shared_affine = shared_affine
        self.register_load_state_dict_post_hook(_tie_after_load)
        self.tie()
        self.set_bits(modes[-1])

    def tie(self) -> None:
        """Make the affine parameters one and the same in all copies, if they are to be shared."""
        if self.shared_affine:
            first, *others = self.norms.values()
            for other in others:
                for name, parameter in first.named_parameters(recurse=False):
                    other.register_parameter(name, parameter)

    @property
    def modes(self) -> list[BitMode]:
        """The modes it holds, without named assignments."""
        return [mode for mode in self.held if isinstance(mode, BitMode)]

    def set_bits(self, mode: BitMode | str) -> None:
        """Make the copy of a mode, or of a named assignment, the active one; ``KeyError`` without one."""
        object.__setattr__(self, "active", self.norms[str(mode)])
        object.__setattr__(self, "mode", mode)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Also point ``active`` at the new copies: so does ``convert_sync_batchnorm`` replace them."""
        super().add_module(name, module)
        if name == "norms":
            self.set_bits(self.mode)

    def add_mode(self, mode: BitMode | str, like: BitMode) -> None:
        """Add a copy for a mode, or for a named assignment, that starts as the one of ``like``."""
        self.held.append(mode)
        self.norms[str(mode)] = copy.deepcopy(self.norms[like.name])
        self.tie()

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.recomputing() and self.active.training:  # statistics have seen this batch already
            copies = {name: buffer.clone() for name, buffer in self.active.named_buffers()}
            recomputed: torch.Tensor = torch.func.functional_call(self.active, copies, args, kwargs)
            return recomputed
        return self.active(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # what is set on a norm (`bn.eps = 1e-3`) is set on all copies
        own = "active" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name)
        if own or name == "norms" or not hasattr(self.active, name):
            super().__setattr__(name, value)
            return
        for norm in self.norms.values():
            setattr(norm, name, copy.deepcopy(value))
        self.tie()

    def __getattr__(self, name: str) -> Any:
        # what a network reads off a norm (`bn.weight`, `norm.eps`) is the active one's
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "active" not in self.__dict__:
                raise
            return getattr(self.__dict__["active"], name)


def _tie_after_load(norm: nn.Module, incompatible_keys: Any) -> None:
    # load_state_dict(assign=True) puts a parameter of its own into each copy
    assert isinstance(norm, PerModeNorm)
    norm.tie()


def keep_activations(model: nn.Module) -> None:
    """Call the activations of timm's ``BatchNormAct2d`` again, in place, after they lost their class.

    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, and Lightning's way back from it, put a plain batch
    norm in place of each, with the activation in it as a child that nothing calls.
    """
    plain = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module).forward in plain and hasattr(module, "act"):
            module.__class__ = SyncBatchNormAct if isinstance(module, nn.SyncBatchNorm) else BatchNormAct2d
