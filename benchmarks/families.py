"""Networks of many families, small, with random weights: what ``coverage.py`` measures.

Each has a batch as ``calibrate`` reads it. Those of ``tests/nn/test_families.py`` come first; the others are
larger, or have something that stays float.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.nn.test_families import IMAGE, PICTURE, TEXT, TIMM, TRANSFORMERS, ids

Made = tuple[nn.Module, Any]
NARROW = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
MORE_TIMM: dict[str, tuple[dict[str, Any], int]] = {  # options, pixels
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "depth": 1}, 32),
    "vit_relpos_small_patch16_224": (NARROW, 32),
    "vit_small_patch16_dinov3": (NARROW, 32),
    "pit_ti_224": ({}, 224),
    "efficientvit_m0": ({}, 224),
    "sam2_hiera_tiny": ({}, 224),
    "halonet26t": ({}, 256),
    "sequencer2d_s": ({}, 224),
    "convnext_atto": ({}, 64),
    "tf_efficientnet_cc_b0_4e": ({}, 64),
}  # fmt: skip
MORE_TRANSFORMERS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "Swin": (
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
         "window_size": 4}, lambda: {"pixel_values": torch.randn(IMAGE)},
    ),
    "Whisper": (
        {"vocab_size": 50, "num_mel_bins": 8, "encoder_layers": 1, "decoder_layers": 1, "d_model": 32,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
         "decoder_ffn_dim": 64, "max_source_positions": 20, "max_target_positions": 20, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None},
        lambda: {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": torch.randint(3, 50, (2, 4))},
    ),
    "CLIP": (
        {"text_config": {**TEXT, "max_position_embeddings": 16}, "vision_config": PICTURE,
         "projection_dim": 16},
        lambda: {**ids(), "pixel_values": torch.randn(IMAGE)},
    ),
    "Mixtral": (
        {**TEXT, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}, ids,
    ),
}  # fmt: skip


class LstmCells(nn.Module):
    """A loop of one's own over ``nn.LSTMCell``."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x[:, 0])
        for step in x.unbind(1)[1:]:
            state = self.cell(step, state)
        return self.head(state[0])


class Attention(nn.Module):
    """``nn.MultiheadAttention``: self-attention under a padding mask, then cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(32, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        padded = torch.arange(x.size(1)) >= x.size(1) - 1
        x = self.own(x, x.clone(), x.clone(), key_padding_mask=padded.expand(len(x), -1))[0]
        return self.cross(x, other, other)[0]


class GraphConvolution(nn.Module):
    """Two layers that mix nodes by a normalized adjacency matrix (Kipf and Welling 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.second((adjacency @ self.first(nodes)).relu())


class SamePadding(nn.Conv2d):
    """A convolution with a forward of its own, as the EfficientNet-Lite package has it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Bilinear(nn.Module):
    """``nn.Bilinear`` and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(16, 16, 32), nn.Linear(32, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.pair(left, right))


def faster_rcnn() -> Made:
    """torchvision's, with its MobileNet backbone, on two images of unequal size."""
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )
    return model, ([torch.rand(3, 64, 64), torch.rand(3, 48, 80)],)


def plain_networks() -> dict[str, Callable[[], Made]]:
    """Of torch and torchvision, and of a few lines."""
    sequence = (2, 6, 16)
    vision = torchvision.models
    return {
        "nn.Transformer": lambda: (
            nn.Transformer(32, 2, 1, 1, 64, batch_first=True), (torch.randn(2, 6, 32), torch.randn(2, 4, 32)),
        ),
        "nn.MultiheadAttention, masks and cross-attention": lambda: (
            Attention(), (torch.randn(2, 6, 32), torch.randn(2, 4, 32)),
        ),
        "nn.LSTM": lambda: (nn.LSTM(16, 32, batch_first=True), torch.randn(sequence)),
        "nn.GRU": lambda: (nn.GRU(16, 32, batch_first=True), torch.randn(sequence)),
        "nn.LSTMCell": lambda: (LstmCells(), torch.randn(sequence)),
        "nn.Bilinear": lambda: (Bilinear(), (torch.randn(2, 16), torch.randn(2, 16))),
        "graph convolution": lambda: (
            GraphConvolution(), (torch.randn(2, 10, 16), torch.rand(2, 10, 10).softmax(-1)),
        ),
        "convolution with a forward of its own": lambda: (
            nn.Sequential(SamePadding(3, 8, 3, 2), nn.ReLU(), SamePadding(8, 8, 3, 2)), torch.randn(IMAGE),
        ),
        "torchvision ViT": lambda: (vision.VisionTransformer(32, 8, 1, 2, 32, 64), torch.randn(IMAGE)),
        "torchvision Faster R-CNN": faster_rcnn,
    }  # fmt: skip


def networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    """Name, and what makes a float network and a batch of its inputs."""
    small = {name: (options, IMAGE[-1]) for name, options in TIMM.items()}
    for name, (options, size) in (small | MORE_TIMM).items():
        yield (
            f"timm {name}",
            lambda n=name, o=options, s=size: (timm.create_model(n, **o), torch.randn(2, 3, s, s)),
        )
    yield from plain_networks().items()
    if importlib.util.find_spec("transformers"):
        import transformers

        for name, (config, inputs) in (TRANSFORMERS | MORE_TRANSFORMERS).items():
            yield (
                f"HF {name}",
                lambda n=name, c=config, i=inputs: (
                    getattr(transformers, f"{n}Model")(getattr(transformers, f"{n}Config")(**c)), i(),
                ),
            )  # fmt: skip
