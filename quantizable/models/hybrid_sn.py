"""A 3D-2D network for patches of hyperspectral scenes, registered with timm as ``hybrid_sn``."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn


def _volume_block(channels: int, kernels: int, bands: int, step: int, padding: int = 0) -> nn.Sequential:
    """A 3D convolution over so many bands and 3x3 pixels; ``padding`` is of the pixels."""
    size, stride, around = (bands, 3, 3), (step, 1, 1), (0, padding, padding)
    conv = nn.Conv3d(channels, kernels, size, stride, around, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(kernels), nn.ReLU())


class HybridSN(nn.Module):
    """HybridSN, Roy et al. 2020, IEEE GRSL 17(2), sec. II and Table I, for small patches of many bands.

    Three 3D convolutions look at bands and space at once, with kernels of 3x3 pixels and 7, 5 and 3 bands.
    A 2D convolution of 3x3 pixels reads the bands that are left as channels. Three linear layers follow. The
    paper has 8, 16, 32 and 64 kernels (``width=8`` here), and 256 and 128 hidden units.

    Three things differ from the paper. There a principal component analysis leaves 30 bands at most; here the
    first two convolutions go over all bands, in steps of 3 and 2. There a patch has 25x25 pixels; here it may
    have 7x7, as the third convolution is padded in space. There is no normalization there; here batch
    normalization follows each convolution, as modes that share weights differ in the scale of their sums.

    Args:
        num_classes: classes.
        in_chans: bands, at least 31.
        width: kernels of the first convolution.
        img_size: side of a patch in pixels, at least 7.
        drop_rate: dropout behind both hidden linear layers.

    Raises:
        ValueError: too few bands, or a patch too small for the convolutions.
    """

    def __init__(
        self,
        num_classes: int = 3,
        in_chans: int = 156,
        width: int = 4,
        img_size: int = 7,
        drop_rate: float = 0.4,
    ) -> None:
        super().__init__()
        if in_chans < 31 or img_size < 7:
            raise ValueError(
                f"hybrid_sn needs 31 bands and 7x7 pixels at least; there are {in_chans} bands and "
                f"{img_size}x{img_size} pixels: use patch_cnn"
            )
        self.num_classes, self.img_size = num_classes, img_size
        bands = ((in_chans - 7) // 3 + 1 - 5) // 2 + 1 - 2
        side = img_size - 6
        self.volume = nn.Sequential(
            _volume_block(1, width, 7, step=3),
            _volume_block(width, 2 * width, 5, step=2),
            _volume_block(2 * width, 4 * width, 3, step=1, padding=1),
        )
        self.space = nn.Sequential(
            nn.Conv2d(4 * width * bands, 8 * width, 3, bias=False), nn.BatchNorm2d(8 * width), nn.ReLU()
        )
        self.hidden = nn.Sequential(
            nn.Linear(8 * width * side**2, 32 * width), nn.ReLU(), nn.Dropout(drop_rate),
            nn.Linear(32 * width, 16 * width), nn.ReLU(), nn.Dropout(drop_rate),
        )  # fmt: skip
        self.classifier = nn.Linear(16 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, img_size, img_size) to logits (B, num_classes)."""
        if tuple(x.shape[-2:]) != (self.img_size,) * 2:
            raise ValueError(
                f"patches have {x.shape[-2]}x{x.shape[-1]} pixels, and this hybrid_sn was built for "
                f"{self.img_size}x{self.img_size}: give model.options={{img_size:{x.shape[-1]}}}"
            )
        x = self.volume(x.unsqueeze(1))  # (B, 4 width, bands, img_size - 4, img_size - 4)
        x = self.space(x.flatten(1, 2))
        return self.classifier(self.hidden(x.flatten(1)))


@register_model
def hybrid_sn(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> HybridSN:
    """HybridSN of half the paper's width; there are no pretrained weights."""
    return HybridSN(**kwargs)  # the others are timm's, for weights to download
