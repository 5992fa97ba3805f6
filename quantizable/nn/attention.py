"""Attention: torch's own with quantized projections, timm's with quantized matrix products by option."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention
from timm.layers.attention import maybe_add_mask, resolve_self_attn_mask
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.nn.layers import QUANT_CLASSES, QuantLayer
from quantizable.quantizers import Quantizer


class QuantMultiheadAttention(QuantLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` (torchvision's ViT) on quantized input and ``in_proj_weight``.

    Its forward never calls ``out_proj``, so that this one does, with whatever layer stands there.
    Self-attention only: ``query``, ``key`` and ``value`` must be the same tensor.
    """

    float_class = nn.MultiheadAttention

    def float_weight(self) -> Tensor:
        return self.in_proj_weight  # type: ignore[return-value]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        out_bits = self.out_proj.bits if isinstance(self.out_proj, QuantLayer) else None
        if self.bits.is_float and (out_bits is None or out_bits.is_float):
            return super().forward(query, key, value, *args, **kwargs)
        if query is not key or key is not value or kwargs.get("key_padding_mask") is not None:
            raise ValueError(
                "a quantized MultiheadAttention does self-attention without key_padding_mask only"
            )
        x = query if self.batch_first else query.transpose(0, 1)
        batch, tokens, channels = x.shape
        qkv = F.linear(self.input_quantizer(x), self.quantized_weight(), self.in_proj_bias)
        q, k, v = qkv.reshape(batch, tokens, 3, self.num_heads, -1).permute(
            2, 0, 3, 1, 4
        )  # [B, heads, N, d] each
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=kwargs.get("attn_mask"), dropout_p=dropout)
        x = self.out_proj(x.transpose(1, 2).reshape(batch, tokens, channels))
        return (x if self.batch_first else x.transpose(0, 1)), None


QUANT_CLASSES[nn.MultiheadAttention] = QuantMultiheadAttention


class QuantAttention(Attention):
    """timm's ``Attention`` (ViT, DeiT) whose products Q K^T and A V run on quantized operands.

    Attributes:
        operands: the quantizers of ``q``, ``k``, ``attn`` (the probabilities) and ``v``.
    """

    operands: nn.ModuleDict

    @staticmethod
    def convert(layer: Attention, make_quantizer: Any) -> None:
        """Turn a timm ``Attention`` into this class in place."""
        layer.__class__ = QuantAttention
        layer.operands = nn.ModuleDict({name: make_quantizer() for name in ("q", "k", "attn", "v")})

    def to_float(self) -> None:
        """Turn it back, in place."""
        self.__class__ = Attention
        del self.operands

    def resolve(self, mode: BitMode) -> BitMode:
        """The mode that it runs in when the network is asked for ``mode``: the same."""
        return mode

    def set_bits(self, mode: BitMode) -> None:
        """Both operands are activations, so the activation's bit-width counts."""
        for operand in self.operands.values():
            operand.set_bits(mode.activation)

    @property
    def bits(self) -> BitMode:
        """Its mode; both parts are the activations' bit-width."""
        bits = self.operands["q"].bits
        return BitMode(bits, bits)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        quantize: dict[str, Quantizer] = self.operands  # type: ignore[assignment]
        calibrating = any(q.calibrating for q in quantize.values())
        if self.bits.is_float and not calibrating:
            return super().forward(x, attn_mask, is_causal)
        batch, tokens, _ = x.shape
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # [B, heads, N, d] each
        q, k = self.q_norm(q), self.k_norm(k)
        scores = (quantize["q"](q) @ quantize["k"](k).transpose(-2, -1)) * self.scale  # [B, heads, N, N]
        scores = maybe_add_mask(scores, resolve_self_attn_mask(tokens, scores, attn_mask, is_causal))
        attn = self.attn_drop(scores.softmax(dim=-1))
        x = quantize["attn"](attn) @ quantize["v"](v)
        x = x.transpose(1, 2).reshape(batch, tokens, self.attn_dim)
        x = self.norm(x)
        if gate is not None:
            x = x * gate
        return self.proj_drop(self.proj(x))
