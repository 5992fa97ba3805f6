"""Layers whose bit mode can be switched."""

from quantizable.nn.attention import QuantAttention, QuantMultiheadAttention
from quantizable.nn.embedding import QuantEmbedding, QuantEmbeddingBag
from quantizable.nn.layers import (
    QuantBilinear,
    QuantConv1d,
    QuantConv2d,
    QuantConv2dSame,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLayer,
    QuantLinear,
    QuantScaledStdConv2d,
    QuantScaledStdConv2dSame,
    QuantStdConv2d,
    QuantStdConv2dSame,
)
from quantizable.nn.norms import PerModeNorm
from quantizable.nn.recurrent import (
    QuantGRU,
    QuantGRUCell,
    QuantLSTM,
    QuantLSTMCell,
    QuantRNN,
    QuantRNNCell,
)
from quantizable.nn.recurrent_products import QuantProduct
from quantizable.nn.shifted_windows import QuantShiftedWindowAttention, QuantShiftedWindowAttentionV2

__all__ = [
    "PerModeNorm",
    "QuantAttention",
    "QuantBilinear",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv2dSame",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantEmbedding",
    "QuantEmbeddingBag",
    "QuantGRU",
    "QuantGRUCell",
    "QuantLSTM",
    "QuantLSTMCell",
    "QuantLayer",
    "QuantLinear",
    "QuantMultiheadAttention",
    "QuantProduct",
    "QuantRNN",
    "QuantRNNCell",
    "QuantScaledStdConv2d",
    "QuantScaledStdConv2dSame",
    "QuantShiftedWindowAttention",
    "QuantShiftedWindowAttentionV2",
    "QuantStdConv2d",
    "QuantStdConv2dSame",
]
