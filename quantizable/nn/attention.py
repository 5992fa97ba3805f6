"""Attention: torch's own with quantized projections, timm's with quantized matrix products by option."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.layers.attention import maybe_add_mask, resolve_self_attn_mask
from torch import Tensor, nn

from quantizable.bits import BitMode
from quantizable.nn.layers import QUANT_CLASSES, QuantLayer, all_float
from quantizable.nn.recomputation import Recomputable
from quantizable.quantizers import Quantizer


class QuantMultiheadAttention(QuantLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` (torchvision's ViT) on quantized input and ``in_proj_weight``.

    The float forward never calls ``out_proj``, so that this one does, with whatever layer stands there.
    Self-attention only (``query``, ``key`` and ``value`` the same batched tensor, no
    ``key_padding_mask``; else ``ValueError``). No attention weights are returned.
    """

    float_class = nn.MultiheadAttention
    in_proj_weight: nn.Parameter

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Only where one matrix projects query, key and value, and nothing is added to key and value."""
        assert isinstance(layer, nn.MultiheadAttention)
        return layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn

    def float_weight(self) -> Tensor:
        return self.in_proj_weight

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if all_float(self):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if query is not key or key is not value or key_padding_mask is not None or query.dim() != 3:
            raise ValueError(
                "a quantized MultiheadAttention does batched self-attention without key_padding_mask only; "
                "exclude it (exclude=...) to keep it in float"
            )
        x = query if self.batch_first else query.transpose(0, 1)
        batch, tokens, channels = x.shape
        qkv = F.linear(*self.factors(x), self.in_proj_bias)
        qkv = qkv.reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, heads, N, d] each
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = ~attn_mask  # here True means "hidden", there "seen"
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (batch, self.num_heads))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        x = self.out_proj(x.transpose(1, 2).reshape(batch, tokens, channels))
        return (x if self.batch_first else x.transpose(0, 1)), None


QUANT_CLASSES[nn.MultiheadAttention] = QuantMultiheadAttention


class QuantAttention(Recomputable, Attention):
    """timm's ``Attention`` (ViT, DeiT) whose products Q K^T and A V run on quantized operands.

    Attributes:
        operands: the quantizers of ``q``, ``k``, ``attn`` (the probabilities) and ``v``.
    """

    operands: Mapping[str, Quantizer]

    @staticmethod
    def convert(layer: nn.Module, make_quantizer: Callable[[], Quantizer]) -> None:
        """Turn a timm ``Attention`` into this class in place."""
        layer.__class__ = QuantAttention
        operands = nn.ModuleDict({name: make_quantizer() for name in ("q", "k", "attn", "v")})
        layer.add_module("operands", operands.to(next(layer.parameters()).device).train(layer.training))

    @staticmethod
    def restore(layer: nn.Module) -> None:
        """Turn one back into timm's ``Attention``, in place."""
        layer.__class__ = Attention
        layer.__dict__.pop("history", None)
        del layer.operands

    def resolve(self, mode: BitMode) -> BitMode:
        """The mode that it runs in when the network is asked for ``mode``: the same."""
        return mode

    def check(self, mode: BitMode) -> None:
        """``ValueError`` if the operands lack the activation's bit-width."""
        for operand in self.operands.values():
            operand.check(mode.activation)

    def check_widths(self, mode: BitMode) -> None:
        """``ValueError`` if :meth:`add_widths` cannot add the activation's bit-width."""
        for operand in self.operands.values():
            if isinstance(operand, Quantizer):
                operand.check_width(mode.activation)
            else:  # what was stored as integers has no more than these
                operand.check(mode.activation)

    def add_widths(self, mode: BitMode) -> None:
        """Hold the activation's bit-width."""
        for operand in self.operands.values():
            if isinstance(operand, Quantizer):
                operand.add_width(mode.activation)

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
        self.recomputing()
        quantize = self.operands
        calibrating = any(q.calibrating for q in quantize.values())
        if self.bits.is_float and not calibrating:
            return super().forward(x, attn_mask, is_causal)
        batch, tokens, _ = x.shape
        gate_layer = getattr(self, "gate", None)  # not in timm before 1.0.28
        gate = gate_layer(x).sigmoid() if gate_layer is not None else None
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
