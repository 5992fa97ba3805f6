"""Attention: torch's own with quantized projections, timm's with quantized matrix products by option."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.layers.attention import maybe_add_mask, resolve_self_attn_mask
from torch import Tensor, nn

from quantizable.nn.layers import QUANT_CLASSES, QuantLayer, all_float
from quantizable.nn.operands import QuantOperands
from quantizable.quantizers import Quantizer


class QuantMultiheadAttention(QuantLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` (torchvision's ViT, ``nn.Transformer``) on quantized inputs and weights.

    Query, key and value share one grid, so that cross-attention has no more parameters than
    self-attention. The float forward never calls ``out_proj``, so that this one does, with whatever layer
    stands there.
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
        """As the float layer's, masks and weights too; ``is_causal`` is a hint that goes with a mask."""
        if all_float(self):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True is a hint that goes with attn_mask; give the mask, too")
        batched = query.dim() == 3
        q, k, v = self._projected(query, key, value)
        mask = _summed_mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)  # [B, heads, L, S]
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            x = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        x = self.out_proj(x.transpose(1, 2).flatten(2))  # [B, L, C]
        if not batched:
            return x[0], weights
        return (x if self.batch_first else x.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries ``[B, heads, L, d]``, keys and values ``[B, heads, S, d]``."""

        def batch_first(x: Tensor) -> Tensor:
            if x.dim() == 2:
                return x[None]
            return x if self.batch_first else x.transpose(0, 1)

        if query is key and key is value:  # one product
            x = batch_first(query)
            parts = F.linear(*self.factors(x), self.in_proj_bias).chunk(3, -1)
        else:
            self.recomputing()
            weights = self.quantized_weight().chunk(3)
            biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            given = map(batch_first, (query, key, value))
            parts = tuple(
                F.linear(self.input_quantizer(x), weight, bias)
                for x, weight, bias in zip(given, weights, biases, strict=True)
            )
        return [x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in parts]


def _summed_mask(q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """What is added to the scores ``[B, heads, L, S]``, of masks as ``nn.MultiheadAttention`` takes them.

    Args:
        q, k: ``[B, heads, L or S, d]``.
        mask: ``[L, S]`` or ``[B heads, L, S]``, True where hidden, or numbers to add.
        padding: ``[B, S]`` or ``[S]``, the same.
    """

    def added(given: Tensor) -> Tensor:
        if given.dtype != torch.bool:
            return given
        return torch.zeros_like(given, dtype=q.dtype).masked_fill(given, float("-inf"))

    if mask is not None:
        mask = added(mask)
        mask = mask.unflatten(0, (q.size(0), -1)) if mask.dim() == 3 else mask
    if padding is not None:
        padding = added(padding).reshape(k.size(0), 1, 1, -1)
        mask = padding if mask is None else mask + padding
    return mask


QUANT_CLASSES[nn.MultiheadAttention] = QuantMultiheadAttention


class QuantAttention(QuantOperands, Attention):
    """timm's ``Attention`` (ViT, DeiT) whose products Q K^T and A V run on quantized operands.

    Attributes:
        operands: the quantizers of ``q``, ``k``, ``attn`` (the probabilities) and ``v``.
    """

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

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.recomputing()
        quantize = self.operands
        if self.passes_all():
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
