"""torchvision's shifted windows (Swin) read their layers' weights; here they call the layers.

What a layer's forward does with its weight would be lost on them: they would run in float in every mode.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from quantizable.nn.layers import QuantLayer


class QuantShiftedWindowAttention(ShiftedWindowAttention):
    """The attention of torchvision's Swin, step by step the same, that calls ``qkv`` and ``proj``."""

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, ``[..., 3 C]``."""
        return self.qkv(x)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Scaled products of queries and keys, each ``[W, heads, n, d]``."""
        return (q * q.shape[-1] ** -0.5).matmul(k.transpose(-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, H, W, C]`` to the same (Liu et al., ICCV 2021, section 3.2)."""
        _, height, width, channels = x.shape
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        batch, tall, wide, _ = x.shape
        # one window over the whole map is not shifted
        shift = [0 if rows >= tall else self.shift_size[0], 0 if columns >= wide else self.shift_size[1]]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))

        down, across, n = tall // rows, wide // columns, rows * columns
        windows = batch * down * across
        x = x.view(batch, down, rows, across, columns, channels).transpose(2, 3)
        x = x.reshape(windows, n, channels)
        qkv = self.project(x).reshape(windows, n, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [W, heads, n, d] each
        attention = self.scores(q, k) + self.get_relative_position_bias()
        if any(shift):
            mask = self.mask(attention, tall, wide, shift)[:, None]
            attention = attention.view(batch, down * across, self.num_heads, n, n) + mask
            attention = attention.view(windows, self.num_heads, n, n)
        attention = F.dropout(attention.softmax(-1), self.attention_dropout, self.training)
        x = self.proj(attention.matmul(v).transpose(1, 2).reshape(windows, n, channels))
        x = F.dropout(x, self.dropout, self.training)

        x = x.view(batch, down, across, rows, columns, channels).transpose(2, 3)
        x = x.reshape(batch, tall, wide, channels)
        if any(shift):
            x = x.roll((shift[0], shift[1]), (1, 2))
        return x[:, :height, :width, :].contiguous()

    def mask(self, like: Tensor, tall: int, wide: int, shift: list[int]) -> Tensor:
        """-100 between tokens of a window that the shift brought together, else 0: ``[windows, n, n]``."""
        rows, columns = self.window_size
        region = like.new_zeros(tall, wide)
        number = 0
        for down in (slice(-rows), slice(-rows, -shift[0]), slice(-shift[0], None)):
            for across in (slice(-columns), slice(-columns, -shift[1]), slice(-shift[1], None)):
                region[down, across] = number
                number += 1
        region = region.view(tall // rows, rows, wide // columns, columns).transpose(1, 2)
        region = region.reshape(-1, rows * columns)
        apart = region[:, None] != region[:, :, None]
        return like.new_zeros(apart.shape).masked_fill(apart, -100.0)


class QuantShiftedWindowAttentionV2(QuantShiftedWindowAttention, ShiftedWindowAttentionV2):
    """The same for Swin V2: cosine attention, and keys without a bias."""

    def project(self, x: Tensor) -> Tensor:
        if self.qkv.bias is None:
            return self.qkv(x)
        bias = self.qkv.bias.clone()
        length = len(bias) // 3
        bias[length : 2 * length].zero_()
        return self.qkv(x, bias) if isinstance(self.qkv, QuantLayer) else F.linear(x, self.qkv.weight, bias)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return cosine * self.logit_scale.clamp(max=math.log(100.0)).exp()


WINDOWED: dict[type[nn.Module], type[nn.Module]] = {
    ShiftedWindowAttention: QuantShiftedWindowAttention,
    ShiftedWindowAttentionV2: QuantShiftedWindowAttentionV2,
}


def call_layers(model: nn.Module, known: Collection[nn.Module] = ()) -> None:
    """Make the shifted windows in ``model`` call their layers, in place."""
    for module in model.modules():
        if type(module) in WINDOWED and module not in known:
            module.__class__ = WINDOWED[type(module)]


def restore(module: nn.Module) -> None:
    """Undo what :func:`call_layers` did to one module, in place."""
    for original, calling in WINDOWED.items():
        if type(module) is calling:
            module.__class__ = original
