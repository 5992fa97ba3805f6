"""Small published sets that torchvision reads: CIFAR-10, CIFAR-100, SVHN and MNIST."""

from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from quantizable.data.memory import MemoryDataModule, channels_first

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


class PublishedDataModule(MemoryDataModule):
    """A set of small images that is downloaded once into `root`.

    Args:
        root: folder that holds, or is to receive, the files.
        download: fetch the files where they are missing.

    The other arguments are those of `ImageDataModule`.
    """

    image_size = 32
    where: str  # what to download and where to put it, with {root}

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        val_size: int | float,
        augment: str,
        download: bool,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__(batch_size, val_size, augment, seed, split_seed)
        self.root, self.download = Path(root), download

    @abstractmethod
    def open(self, train: bool, download: bool) -> datasets.VisionDataset:
        """torchvision's data set of the training or test images."""

    def prepare_data(self) -> None:
        """Download the files where they are missing and check that they are whole.

        Raises:
            FileNotFoundError: they are missing or damaged and cannot be downloaded.
        """
        self._prepare(train=True, test=True)

    def prepare_test_data(self) -> None:
        """As `prepare_data`, for the test set alone."""
        self._prepare(train=False, test=True)

    def _prepare(self, train: bool, test: bool) -> None:
        empty = not self.root.exists()
        try:
            for part in [True] * train + [False] * test:
                self._open(part, self.download)
        finally:
            if empty:  # torchvision makes folders before it downloads
                for folder in [*sorted(self.root.rglob("*"), reverse=True), self.root]:
                    with suppress(OSError):  # rmdir refuses files, and a folder that holds something
                        folder.rmdir()

    def _open(self, train: bool, download: bool) -> datasets.VisionDataset:
        try:
            # torchvision compares the files' checksums before it reads them
            return self.open(train, download)
        except (OSError, RuntimeError) as error:  # no network; missing or damaged files
            reason = " ".join(str(error).split())  # torchvision names each server on a line of its own
            tried = f"downloading failed: {reason}" if download else "download is off"
            raise FileNotFoundError(
                f"{type(self).__name__} is missing or damaged in {self.root} ({tried}). "
                + self.where.format(root=self.root)
                + " Or set data.root to the folder where it lies."
            ) from error

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """The whole training or test set: uint8 (N, C, H, W) and int64 (N,)."""
        data = self._open(train, download=False)
        return self.tensors(data)

    def tensors(self, data: datasets.VisionDataset) -> tuple[Tensor, Tensor]:
        """Images and labels of an opened data set: uint8 (N, C, H, W) and int64 (N,)."""
        return channels_first(torch.from_numpy(data.data)), torch.tensor(data.targets)


class CIFAR10TestSet(datasets.CIFAR10):
    """torchvision's, which does not ask for the training images."""

    train_list: ClassVar[list[Any]] = []


class CIFAR100TestSet(datasets.CIFAR100):
    """torchvision's, which does not ask for the training images."""

    train_list: ClassVar[list[Any]] = []


class MNISTTestSet(datasets.MNIST):
    """torchvision's, which does not ask for the training images, nor downloads them."""

    resources: ClassVar[list[Any]] = [(n, md5) for n, md5 in datasets.MNIST.resources if n.startswith("t10k")]

    @property
    def raw_folder(self) -> str:
        """Where the files lie; torchvision names it by the class."""
        return str(Path(self.root, "MNIST", "raw"))


class CIFAR10(PublishedDataModule):
    """CIFAR-10 (Krizhevsky 2009): 50 000 training and 10 000 test images, 10 classes.

    Normalized by ImageNet's mean and standard deviation, as the float checkpoints of the CIFAR
    ResNets in common use expect. Arguments are those of `PublishedDataModule`.
    """

    num_classes = 10
    class_names = tuple(CIFAR10_CLASSES.split())
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    where = (
        "Download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170 MB) "
        "and unpack it there, as {root}/cifar-10-batches-py/."
    )

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        val_size: int | float = 5000,
        augment: str = "crop_flip",
        download: bool = True,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, val_size, augment, download, seed, split_seed)

    def open(self, train: bool, download: bool) -> datasets.CIFAR10:
        """torchvision's CIFAR10."""
        kind = datasets.CIFAR10 if train else CIFAR10TestSet
        return kind(self.root, train, download=download)


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky 2009): 50 000 training and 10 000 test images, 100 classes.

    Normalized by the training set's own mean and standard deviation. Arguments are those of
    `PublishedDataModule`.
    """

    num_classes = 100
    class_names = tuple(CIFAR100_CLASSES.split())
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    where = (
        "Download https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz (169 MB) "
        "and unpack it there, as {root}/cifar-100-python/."
    )

    def open(self, train: bool, download: bool) -> datasets.CIFAR10:
        """torchvision's CIFAR100."""
        kind = datasets.CIFAR100 if train else CIFAR100TestSet
        return kind(self.root, train, download=download)


class SVHN(PublishedDataModule):
    """Street View House Numbers (Netzer et al. 2011): 73 257 training and 26 032 test digits.

    Digits are never mirrored. Arguments are those of `PublishedDataModule`.
    """

    num_classes = 10
    class_names = tuple("0123456789")
    mean = (0.4377, 0.4438, 0.4728)
    std = (0.1980, 0.2010, 0.1970)
    auto_policy = v2.AutoAugmentPolicy.SVHN
    mirrors = False
    where = (
        "Download train_32x32.mat and test_32x32.mat from "
        "http://ufldl.stanford.edu/housenumbers/ (246 MB) and put them in {root}."
    )

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        val_size: int | float = 6000,
        augment: str = "crop",
        download: bool = True,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, val_size, augment, download, seed, split_seed)

    def open(self, train: bool, download: bool) -> datasets.SVHN:
        """torchvision's SVHN."""
        return datasets.SVHN(self.root, "train" if train else "test", download=download)

    def tensors(self, data: datasets.SVHN) -> tuple[Tensor, Tensor]:
        """Images and labels of an opened data set: uint8 (N, 3, 32, 32) and int64 (N,)."""
        return torch.from_numpy(data.data), torch.from_numpy(data.labels).long()


class MNIST(PublishedDataModule):
    """MNIST (LeCun et al. 1998): 60 000 training and 10 000 test digits, grey, 28x28 pixels.

    Digits are never mirrored. Arguments are those of `PublishedDataModule`.
    """

    num_classes = 10
    class_names = tuple("0123456789")
    in_chans = 1
    image_size = 28
    mean = (0.1307,)
    std = (0.3081,)
    mirrors = False
    where = (
        "Download the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
        "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz from "
        "https://ossci-datasets.s3.amazonaws.com/mnist/ (12 MB) and unpack them in {root}/MNIST/raw/."
    )

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        val_size: int | float = 5000,
        augment: str = "crop",
        download: bool = True,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, val_size, augment, download, seed, split_seed)

    def open(self, train: bool, download: bool) -> datasets.MNIST:
        """torchvision's MNIST.

        Raises:
            RuntimeError: a file is damaged. torchvision knows these files by name alone.
        """
        try:
            return (datasets.MNIST if train else MNISTTestSet)(self.root, train, download=download)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"no IDX file: {error!r}") from error

    def tensors(self, data: datasets.MNIST) -> tuple[Tensor, Tensor]:
        """Images and labels of an opened data set: uint8 (N, 1, 28, 28) and int64 (N,).

        Raises:
            FileNotFoundError: the files hold images of another size, or more or fewer labels than images.
        """
        if data.data.shape[1:] != (28, 28) or len(data.data) != len(data.targets):
            raise FileNotFoundError(
                f"MNIST is damaged in {self.root}: {len(data.targets)} labels for images of shape "
                f"{list(data.data.shape)}. {self.where.format(root=self.root)}"
            )
        return data.data[:, None], data.targets.long()
