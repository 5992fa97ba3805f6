"""Image data as Lightning data modules; see `ImageDataModule` for what they have in common."""

from typing import TYPE_CHECKING

from quantizable.interface.lazy import lazy

if TYPE_CHECKING:
    from quantizable.data.base import ImageDataModule
    from quantizable.data.choice import DATAMODULES
    from quantizable.data.digits import Digits
    from quantizable.data.fake import Fake
    from quantizable.data.folder import Folder, ImageNet
    from quantizable.data.published import CIFAR10, CIFAR100, MNIST, SVHN
    from quantizable.data.scene import Scene

# imported when asked for: what only loads a network needs no data, and no Lightning
__getattr__, __dir__ = lazy(
    __name__,
    {
        "CIFAR10": "published",
        "CIFAR100": "published",
        "DATAMODULES": "choice",
        "MNIST": "published",
        "SVHN": "published",
        "Digits": "digits",
        "Fake": "fake",
        "Folder": "folder",
        "ImageDataModule": "base",
        "ImageNet": "folder",
        "Scene": "scene",
    },
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATAMODULES",
    "MNIST",
    "SVHN",
    "Digits",
    "Fake",
    "Folder",
    "ImageDataModule",
    "ImageNet",
    "Scene",
]
