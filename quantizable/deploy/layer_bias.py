"""A bias for every integer layer of an exported file, as OpenVINO's integer passes need one.

They compute a layer without bias wrongly (2026.4): where its output is an operand of a residual addition and
is quantized as well, a graph with a free axis loses the other operand. An engine drops a bias of zeros before
these passes run, so that one which no float32 sum can see stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

UNSEEN = 1e-30  # below the rounding of any sum of dequantized codes, and above the smallest normal float32


def with_bias(layers: Iterable[nn.Module]) -> None:
    """Give each convolution and linear layer whose bias is missing or zero an unseen one, in place."""
    for layer in layers:
        if isinstance(layer, _ConvNd | nn.Linear) and (layer.bias is None or not layer.bias.any()):
            width = layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
            layer.bias = nn.Parameter(torch.full((width,), UNSEEN), requires_grad=False)
