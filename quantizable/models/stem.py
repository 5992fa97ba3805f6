"""Fitting an ImageNet network's first layers to small images."""

from timm.layers import PatchEmbed, PatchEmbedWithSize
from torch import nn
from torchvision.models import VisionTransformer

# Where ResNet-like and DenseNet-like networks keep the pooling that follows the first convolution.
POOLS = ("maxpool", "maxpool1", "stem.pool", "features.pool0", "features.conv1_pool")
PATCH_NETWORKS = (PatchEmbed, PatchEmbedWithSize, VisionTransformer)


def first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the convolution that reads the image.

    Raises:
        ValueError: the network has no convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError(f"{type(model).__name__} has no convolution that could read an image")


def use_cifar_stem(model: nn.Module) -> None:
    """Keep small images (CIFAR's 32x32) large: first convolution at stride 1, no pooling after it.

    In place. A 3x3 convolution keeps its weights and gets stride 1; a larger one (the 7x7 of a
    ResNet, the 4x4 patches of a ConvNeXt) gives way to a fresh 3x3 at stride 1. A network that
    starts at stride 1 (VGG, CIFAR ResNets) stays as it is.

    Raises:
        ValueError: the network cuts the image into patches and has a table of their positions.
    """
    if any(isinstance(module, PATCH_NETWORKS) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} reads patches and has no stem to swap; use cifar_stem=False "
            "and pass img_size (and patch_size, where the network takes it) to fit small images, "
            "for instance img_size=32, patch_size=4"
        )
    name, conv = first_conv(model)
    if max(conv.kernel_size) > 3:
        replace(model, name, _conv3x3(conv))
    else:
        conv.stride = (1, 1)
    for pool in POOLS:
        if has_submodule(model, pool):
            replace(model, pool, nn.Identity())


def has_submodule(model: nn.Module, name: str) -> bool:
    """Whether the network has a module of that dotted name."""
    return name in dict(model.named_modules())


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the module of that dotted name is."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _conv3x3(conv: nn.Conv2d) -> nn.Conv2d:
    # of the same class: timm's weight-standardized convolutions have to stay such
    bias = conv.bias is not None
    new = type(conv)(conv.in_channels, conv.out_channels, 3, stride=1, padding=1, bias=bias)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
