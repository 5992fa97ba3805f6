"""Embeddings whose rows are on a grid: look-ups, not products, so that their input has no quantizer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from quantizable.bits import FLOAT_BITS, BitMode
from quantizable.nn.layers import QUANT_CLASSES, QuantLayer

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class _Rows(QuantLayer):
    """What both embeddings share: quantized is the table alone, one step size a row where there are several.

    Sparse gradients and ``max_norm``, which writes into the
    table at each look-up, need a table that is a parameter: such layers stay float.
    """

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        assert isinstance(layer, EMBEDDINGS)
        return not layer.sparse and layer.max_norm is None

    def resolve(self, mode: BitMode) -> BitMode:
        return BitMode(super().resolve(mode).weight, FLOAT_BITS)


class QuantEmbedding(_Rows, nn.Embedding):
    """``nn.Embedding`` on a quantized table."""

    float_class = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        self.recomputing()
        return F.embedding(
            input,
            self.quantized_weight(),
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
        )


class QuantEmbeddingBag(_Rows, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` on a quantized table."""

    float_class = nn.EmbeddingBag

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        self.recomputing()
        options: dict[str, Any] = {
            "mode": self.mode, "scale_grad_by_freq": self.scale_grad_by_freq,
            "include_last_offset": self.include_last_offset, "padding_idx": self.padding_idx,
        }  # fmt: skip
        return F.embedding_bag(
            input, self.quantized_weight(), offsets, per_sample_weights=per_sample_weights, **options
        )


QUANT_CLASSES[nn.Embedding] = QuantEmbedding
QUANT_CLASSES[nn.EmbeddingBag] = QuantEmbeddingBag
