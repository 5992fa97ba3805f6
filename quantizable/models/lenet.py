"""LeCun's networks for handwritten digits, registered with timm as ``lenet1`` and ``lenet5``.

Layer sizes are those of LeCun et al. 1998 ("Gradient-based learning applied to document recognition"),
sec. III. As is usual today, every map of a layer reads all maps before it, activations are ReLUs, pooling
is a plain average and the classifier gives logits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions, each with a ReLU and an average over 2x2 pixels, then linear layers.

    Args:
        maps: channels of both convolutions.
        hidden: widths of the linear layers before the classifier.
        padding: pixels around the image. LeNet-5 drew the digits of 28x28 pixels in the middle of 32x32.
        num_classes: classes; 0 leaves the classifier out.
        in_chans: channels of the image.
        img_size: height and width of the image in pixels.

    Raises:
        ValueError: images too small for both convolutions.
    """

    def __init__(
        self,
        maps: tuple[int, int],
        hidden: tuple[int, ...],
        padding: int,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int = 28,
    ) -> None:
        super().__init__()
        side = ((img_size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            least = 16 - 2 * padding
            raise ValueError(
                f"img_size={img_size} is too small for two 5x5 convolutions; give at least {least}"
            )
        self.num_classes, self.in_chans, self.img_size = num_classes, in_chans, img_size
        self.conv1 = nn.Conv2d(in_chans, maps[0], 5, padding=padding)
        self.conv2 = nn.Conv2d(maps[0], maps[1], 5)
        self.pool = nn.AvgPool2d(2)
        widths = [maps[1] * side * side, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.num_features = self.head_hidden_size = widths[-1]
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer; there is no global pooling."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, img_size, img_size]`` to ``[B, maps, side, side]``."""
        # torch.fx traces with a stand-in, which has no shape
        if isinstance(x, Tensor) and tuple(x.shape[-2:]) != (self.img_size,) * 2:
            raise ValueError(
                f"images have {x.shape[-2]}x{x.shape[-1]} pixels, and this LeNet was built for "
                f"{self.img_size}x{self.img_size}: give model.options={{img_size:{x.shape[-1]}}}"
            )
        x = self.pool(self.conv1(x).relu())
        return self.pool(self.conv2(x).relu())

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps to logits ``[B, num_classes]``, or to the features before the classifier."""
        x = torch.flatten(x, 1)
        for layer in self.hidden:
            x = layer(x).relu()
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_CFG = {
    "url": "",
    "num_classes": 10,
    "input_size": (1, 28, 28),
    "crop_pct": 1.0,
    "mean": (0.1307,),  # of MNIST's training images
    "std": (0.3081,),
    "first_conv": "conv1",
    "classifier": "fc",
}

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in ("lenet1", "lenet5")})


@register_model
def lenet1(pretrained: bool = False, **kwargs: Any) -> LeNet:
    """LeNet-1: 4 and 12 maps, a classifier on 12x4x4 values. 3 246 parameters."""
    return build_model_with_cfg(LeNet, "lenet1", pretrained, maps=(4, 12), hidden=(), padding=0, **kwargs)


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> LeNet:
    """LeNet-5: 6 and 16 maps, linear layers of 120 and 84. 61 706 parameters."""
    return build_model_with_cfg(
        LeNet, "lenet5", pretrained, maps=(6, 16), hidden=(120, 84), padding=2, **kwargs
    )
