"""A small network for patches of hyperspectral scenes, registered with timm as ``patch_cnn``."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn


def _block(channels: int, width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class PatchCNN(nn.Module):
    """Mixes the bands of each pixel (1x1 convolutions), then looks at the patch (3x3 convolutions).

    Args:
        num_classes: classes.
        in_chans: bands.
        width: channels after the bands are mixed.
    """

    def __init__(self, num_classes: int = 3, in_chans: int = 156, width: int = 32) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bands = nn.Sequential(_block(in_chans, width, 1), _block(width, width, 1))
        self.space = nn.Sequential(_block(width, width, 3), _block(width, width, 3))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to logits (B, num_classes)."""
        x = self.space(self.bands(x))  # (B, width, H, W)
        return self.classifier(torch.flatten(x.mean((2, 3)), 1))


@register_model
def patch_cnn(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> PatchCNN:
    """PatchCNN; there are no pretrained weights."""
    return PatchCNN(**kwargs)  # the others are timm's, for weights to download
