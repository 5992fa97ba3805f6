"""Weights rounded so that the outputs of their layer stay: rounding errors of one row make up for each other.

The outputs of a row w of a layer's weight move by ``sum over inputs x of |x (w_q - w)|^2``, which is
``(w_q - w)' H (w_q - w)`` with ``H = sum of x x'``. GPTQ (Frantar et al., ICLR 2023, after OBQ, Frantar and
Alistarh, NeurIPS 2022) goes through the inputs, from the one with the largest ``H_ii``: it rounds a weight
and lets those that are not rounded yet take the values that suit that error best. With U the upper Cholesky
factor of the inverse of H::

    q_i = s clip(round(w_i / s))        w_j = w_j - (w_i - q_i) U_ij / U_ii   for all j behind i

What w_i has become when its turn comes is kept, less what it was, as the level's ``correction``: it is added
to the weight before it is rounded. So learning, which goes on from there, knows how near each weight is to
the next code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.calibrate import Run
from quantizable.functional import positive
from quantizable.network import QuantizableNetwork
from quantizable.nn.layers import QuantLayer, same_padded
from quantizable.nn.watching import watching

AT_ONCE = 2**24  # entries of patches, which are many times an image
DAMPING = 0.01  # of the mean of H's diagonal, added to it: GPTQ, sec. 3.3


@torch.no_grad()
def round_weights(
    network: QuantizableNetwork, runs: Iterable[Run], mode: BitMode, corrections: Collection[nn.Parameter]
) -> None:
    """Set corrections of a mode from the inputs of their layers, in one pass over the images for all layers.

    The inputs are those that the mode has as it is now, quantized. Transposed convolutions, bilinear layers
    and layers that are called with keywords, or not at all, keep their corrections.

    Args:
        network: calibrated, in evaluation mode.
        runs: forward passes over images.
        mode: of the network.
        corrections: those to set, of levels of the mode.
    """
    asked = {id(correction) for correction in corrections}
    squares: dict[str, Tensor] = {}

    def note(name: str, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        if not inputs:
            return  # it was called with keywords
        for rows in patches(layer, layer.input_quantizer(inputs[0])):
            exact = rows.float()  # sums over many positions overflow a half
            square = exact.transpose(1, 2) @ exact
            squares[name] = squares[name] + square if name in squares else square

    with network.at_bits(mode):
        layers = {
            name: layer
            for name, layer in network.layers().items()
            if isinstance(layer, QuantLayer)
            and isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and id(getattr(getattr(layer.weight_quantizer, "active", None), "correction", None)) in asked
        }
        with watching(layers, note, before=True):
            for run in runs:
                run(network)
        for name, square in squares.items():
            _correct(layers[name], square.double())


def _correct(layer: QuantLayer, square: Tensor) -> None:
    level, weight = layer.weight_quantizer.active, layer.float_weight()
    assert level is not None
    assert level.correction is not None
    groups, size, _ = square.shape
    rows = weight.reshape(groups, -1, size)
    scale = positive(level.scale).expand(len(weight), *[1] * (weight.dim() - 1)).reshape(groups, -1, 1)
    low, high = map(int, level.bounds())
    level.correction.copy_((compensated(rows, square, scale, low, high) - rows).reshape(weight.shape))


def patches(layer: nn.Module, x: Tensor) -> Iterable[Tensor]:
    """What the rows of a weight are multiplied by, ``[groups, positions, inputs]``, some images at a time.

    Args:
        layer: a linear layer or a convolution.
        x: its input, quantized.
    """
    if isinstance(layer, nn.Linear):
        yield x.reshape(1, -1, layer.in_features)
        return
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    images = _padded(layer, x if x.dim() == layer.weight.dim() else x[None])
    size, sides = layer.weight[0].numel(), len(layer.kernel_size)
    entries = images[0, 0].numel() * size * layer.groups  # of an image, without strides
    for some in images.split(max(1, AT_ONCE // entries)):
        for side, kernel in enumerate(layer.kernel_size):
            step = layer.dilation[side]
            window = (kernel - 1) * step + 1
            some = some.unfold(side + 2, window, layer.stride[side])[..., ::step]
        split = some.unflatten(1, (layer.groups, -1))  # [images, groups, channels, *positions, *kernel]
        positions, taps = range(3, 3 + sides), range(3 + sides, 3 + 2 * sides)
        yield split.permute(1, 0, *positions, 2, *taps).reshape(layer.groups, -1, size)


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The input of a convolution with what it puts around it."""
    if isinstance(layer, Conv2dSame) or (isinstance(layer, nn.Conv2d) and getattr(layer, "same_pad", False)):
        return same_padded(x, layer)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode)


def compensated(weight: Tensor, square: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """The values that, rounded to the nearest code, keep the outputs best by the formula above.

    Args:
        weight: ``[groups, rows, inputs]``.
        square: H, ``[groups, inputs, inputs]``, positive semidefinite, in float64.
        scale: step sizes, positive, ``[groups, rows, 1]``.
        low, high: smallest and largest code.

    Returns:
        Shape and type of ``weight``.
    """
    diagonal = square.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    added = torch.where(mean > 0, DAMPING * mean, 1.0)  # no image reaches it: any value will do
    square = square + torch.diag_embed(added.expand_as(diagonal))
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    columns, step = order[:, None, :].expand_as(weight), scale[..., 0].double()
    square = square.gather(1, order[:, :, None].expand_as(square))
    square = square.gather(2, order[:, None, :].expand_as(square))
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(square)), upper=True)
    values = weight.double().gather(2, columns)
    for i in range(weight.shape[2] - 1):
        value = values[..., i]
        error = (value - (value / step).round().clamp(low, high) * step) / upper[:, i, i, None]
        values[..., i + 1 :] -= error[..., None] * upper[:, None, i, i + 1 :]
    return torch.empty_like(values).scatter_(2, columns, values).to(weight.dtype)
