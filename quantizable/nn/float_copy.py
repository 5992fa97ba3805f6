"""The way back: a plain float network from one whose layers and norms were swapped."""

from __future__ import annotations

import copy

from torch import nn

from quantizable.bits import BitMode
from quantizable.nn import additions, encoder_fast_path, fused_relu, reading, recurrent, shifted_windows
from quantizable.nn.attention import QuantAttention
from quantizable.nn.layers import QuantLayer
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.recomputation import unwatch
from quantizable.nn.swap import to_float


def same_copy(model: nn.Module) -> nn.Module:
    """A deep copy, each of whose modules is in the mode, training or evaluation, of the original.

    ``torch.fx`` graphs (torchvision's ``create_feature_extractor``) lose it in a plain copy.
    """
    copied, training = copy.deepcopy(model), {name: module.training for name, module in model.named_modules()}
    for name, module in copied.named_modules():
        module.training = training.get(name, model.training)
    return copied


def float_copy(model: nn.Module, mode: BitMode) -> nn.Module:
    """A copy of ``model`` with the original layer classes and keys.

    Args:
        model: a network with quantized layers; it is left as it is.
        mode: whose copies of the norms to keep.
    """
    model = same_copy(model)
    for module in list(model.modules()):
        reading.restore(module)
        additions.restore(module)
        fused_relu.restore(module)
        if isinstance(module, QuantLayer):
            to_float(module)
        elif isinstance(module, QuantAttention):
            QuantAttention.restore(module)
        recurrent.restore(module)
        encoder_fast_path.restore(module)
        shifted_windows.restore(module)
        unwatch(module)
        for name, child in list(module._modules.items()):  # a second name of one norm too
            if isinstance(child, PerModeNorm):
                setattr(module, name, child.norms[mode.name])
    return model
