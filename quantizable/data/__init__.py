"""Images and texts as Lightning data modules; see `DataModule` for what they have in common."""

from typing import TYPE_CHECKING

from quantizable.interface.lazy import lazy

if TYPE_CHECKING:
    from quantizable.data.base import DataModule, ImageDataModule
    from quantizable.data.choice import DATAMODULES
    from quantizable.data.digits import Digits
    from quantizable.data.fake import Fake
    from quantizable.data.folder import Folder, ImageNet
    from quantizable.data.published import CIFAR10, CIFAR100, MNIST, SVHN
    from quantizable.data.scene import Scene
    from quantizable.data.text import Text

# imported when asked for: what only loads a network needs no data, and no Lightning
__getattr__, __dir__ = lazy(
    __name__,
    {
        "CIFAR10": "published",
        "CIFAR100": "published",
        "DATAMODULES": "choice",
        "DataModule": "base",
        "MNIST": "published",
        "SVHN": "published",
        "Digits": "digits",
        "Fake": "fake",
        "Folder": "folder",
        "ImageDataModule": "base",
        "ImageNet": "folder",
        "Scene": "scene",
        "Text": "text",
    },
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DATAMODULES",
    "MNIST",
    "SVHN",
    "DataModule",
    "Digits",
    "Fake",
    "Folder",
    "ImageDataModule",
    "ImageNet",
    "Scene",
    "Text",
]
