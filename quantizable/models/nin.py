"""Network in Network for small images, registered with timm as ``nin``.

Lin, Chen and Yan 2014 (arXiv:1312.4400), with the sizes that the authors published for CIFAR-10.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


def _mlpconv(channels: int, kernel: int, widths: tuple[int, ...]) -> list[nn.Module]:
    """A convolution, and others of 1x1 that are a small network on each pixel; a ReLU behind each."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU()]
        channels, kernel = width, 1
    return layers


class NiN(nn.Module):
    """Three small networks slid over the image; the last one's maps are averaged to the logits.

    Args:
        num_classes: classes, at least 1.
        in_chans: channels of the image.
        drop_rate: dropout behind both poolings.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.5) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = 192
        self.features = nn.Sequential(
            *_mlpconv(in_chans, 5, (192, 160, 96)),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Dropout(drop_rate),
            *_mlpconv(96, 5, (192, 192, 192)),
            nn.AvgPool2d(3, stride=2, padding=1),
            nn.Dropout(drop_rate),
            *_mlpconv(192, 3, (192, 192)),
        )
        self.classifier = nn.Conv2d(192, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # without norms torch's own start gives all images one answer
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to logits ``[B, num_classes]``."""
        x = self.classifier(self.features(x)).relu()  # [B, num_classes, H/4, W/4]
        return torch.flatten(x.mean((2, 3)), 1)


default_cfgs = generate_default_cfgs({
    "nin.untrained": {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "features.0",
        "classifier": "classifier",
    }
})  # fmt: skip


@register_model
def nin(pretrained: bool = False, **kwargs: Any) -> NiN:
    """NiN: 0.97 million parameters."""
    return build_model_with_cfg(NiN, "nin", pretrained, **kwargs)
