"""A spectral-spatial residual network for hyperspectral scenes, registered with timm as ``ssrn``."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn


class Residual(nn.Module):
    """What the layers give, added to what they were given."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the layers keep."""
        return x + self.layers(x)


def _spectral(channels: int) -> nn.Sequential:
    conv = nn.Conv3d(channels, channels, (7, 1, 1), padding=(3, 0, 0), bias=False)
    return nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU(), conv)


def _spatial(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv)


class SSRN(nn.Module):
    """SSRN, Zhong et al. 2018, IEEE TGRS 56(2), sec. II, for patches of many bands.

    *Spectral* part: a 3D convolution over 7 bands of one pixel, two residual blocks of two such convolutions,
    and one over all bands that are left. *Spatial* part: the ``features`` maps of that become the depth of a
    new volume. A convolution over 3x3 pixels and the whole depth leaves a depth of 1, so that it and the two
    residual blocks behind it are 2D convolutions here. The mean over the pixels goes to the classifier. Batch
    normalization and ReLU come before each convolution but the first.

    The paper has 24 kernels (``width``), 128 features, and steps of 2 over the bands (``step``); this network
    is smaller.

    Args:
        num_classes: classes.
        in_chans: bands, at least 7.
        width: channels of both parts.
        features: maps between the two parts.
        step: stride of the first convolution over the bands.

    Raises:
        ValueError: too few bands.
    """

    def __init__(
        self, num_classes: int = 3, in_chans: int = 156, width: int = 8, features: int = 32, step: int = 6
    ) -> None:
        super().__init__()
        if in_chans < 7:
            raise ValueError(f"ssrn reads 7 bands at once, and there are {in_chans}: use patch_cnn")
        self.num_classes = num_classes
        bands = (in_chans - 7) // step + 1
        self.spectral = nn.Sequential(
            nn.Conv3d(1, width, (7, 1, 1), (step, 1, 1), bias=False),
            *(Residual(_spectral(width), _spectral(width)) for _ in range(2)),
            nn.BatchNorm3d(width), nn.ReLU(),
            nn.Conv3d(width, features, (bands, 1, 1), bias=False), nn.BatchNorm3d(features), nn.ReLU(),
        )  # fmt: skip
        self.spatial = nn.Sequential(
            nn.Conv2d(features, width, 3, bias=False),
            *(Residual(_spatial(width), _spatial(width)) for _ in range(2)),
            nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W), of at least 3x3 pixels, to logits (B, num_classes)."""
        x = self.spectral(x.unsqueeze(1))  # (B, features, 1, H, W)
        x = self.spatial(x.flatten(1, 2))  # (B, width, H - 2, W - 2)
        return self.classifier(x.mean((2, 3)))


@register_model
def ssrn(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> SSRN:
    """SSRN of a third of the paper's width; there are no pretrained weights."""
    return SSRN(**kwargs)  # the others are timm's, for weights to download
