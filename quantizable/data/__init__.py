"""Image data as Lightning data modules; see `ImageDataModule` for what they have in common."""

from quantizable.data.base import ImageDataModule
from quantizable.data.digits import Digits
from quantizable.data.fake import Fake
from quantizable.data.folder import Folder, ImageNet
from quantizable.data.published import CIFAR10, CIFAR100, SVHN
from quantizable.data.scene import Scene

DATAMODULES: dict[str, type[ImageDataModule]] = {
    "digits": Digits,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": SVHN,
    "imagenet": ImageNet,
    "folder": Folder,
    "samson": Scene,
    "fake": Fake,
}

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATAMODULES",
    "SVHN",
    "Digits",
    "Fake",
    "Folder",
    "ImageDataModule",
    "ImageNet",
    "Scene",
]
