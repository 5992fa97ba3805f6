"""ReLUs that quantize what they give for the layer that reads it: one pass over memory instead of two.

Which quantizer reads a ReLU shows in passes without gradients, as calibration and validation are. A ReLU with
several of them, as torchvision's residual blocks have one ReLU in two places, stays as it is. The classes
have the names of torch's: a network's text, its digest and reports are those of a network with torch's.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn

from quantizable.kernels.loops import loops_for, rows_and_length
from quantizable.nn.norms import PerModeNorm
from quantizable.quantizers import LSQActivation
from quantizable.quantizers.fused_relu import NOTES, Note, Readers, fused_relu
from quantizable.quantizers.level import Level


class FusedActivation(nn.Module):
    """What both have beside torch's own class.

    Attributes:
        top: largest value that passes.
    """

    top: float
    inplace: bool
    readers: Readers

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or loops_for(x) is None:
            return super().forward(x)
        if torch.is_grad_enabled():
            return self._quantized(x)
        out: Tensor = super().forward(x)
        NOTES[out] = Note(self.readers)
        return out

    def _quantized(self, x: Tensor) -> Tensor:
        level = self._level(x)
        if level is None:
            return super().forward(x)
        return fused_relu(x, self.inplace, self.top, level, self.readers)

    def _level(self, x: Tensor) -> Level | None:
        """At which what this ReLU gives for ``x`` can be quantized at once; None: it cannot."""
        readers = self.readers
        reader = None if readers.several or readers.first is None else readers.first()
        if not isinstance(reader, LSQActivation):
            return None
        if not reader.is_settled:
            # not before it is seen anew: checkpointing runs this again when it is settled
            readers.first = None
            return None
        if not x.requires_grad or (self.inplace and (x.is_leaf or x._is_view())):  # these torch may refuse
            return None
        level = reader.level_after_relu()
        return level if level is not None and rows_and_length(x, level.scale) is not None else None


class ReLU(FusedActivation, nn.ReLU):
    """``nn.ReLU`` and the quantizer behind it."""

    top = inf


class ReLU6(FusedActivation, nn.ReLU6):
    """``nn.ReLU6`` and the quantizer behind it."""

    top = 6.0


FUSED: dict[type[nn.Module], type[FusedActivation]] = {nn.ReLU: ReLU, nn.ReLU6: ReLU6}


def fuse_relus(model: nn.Module) -> None:
    """Swap the ReLUs of ``model``, in place; those in the copies of one norm have the same readers."""
    for module in model.modules():
        if type(module) in FUSED:
            module.__class__ = FUSED[type(module)]
            vars(module)["readers"] = Readers()
    for norm in model.modules():
        if isinstance(norm, PerModeNorm):
            first, *others = norm.norms.values()
            for name, relu in first.named_modules():
                for other in others if isinstance(relu, FusedActivation) else ():
                    vars(other.get_submodule(name))["readers"] = relu.readers


def restore(module: nn.Module) -> None:
    """Turn a ReLU back into torch's own, in place."""
    if isinstance(module, FusedActivation):
        module.__class__ = type(module).__bases__[-1]
        del module.__dict__["readers"]
