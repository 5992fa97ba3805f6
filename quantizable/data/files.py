"""Image sets that are read from files as they are needed, by worker processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quantizable.data.loader import Batch, EpochLoader
from quantizable.seeds import generator, key_seed, seeded

Sample = tuple[str, int]  # file, label


def read_image(file: str, mode: str = "RGB") -> Image.Image:
    """Decode one image file completely.

    Raises:
        ValueError: the file is truncated, no image, or of more than 8 bits a channel; the message names it.
    """
    try:
        with Image.open(file) as image:
            held, converted = image.mode, image.convert(mode)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be decoded ({error}). Replace or remove the file.") from error
    check_depth(file, held)
    return converted


def check_depth(file: object, mode: str) -> None:
    """``ValueError`` if a mode of PIL has more than 8 bits a channel, which conversion clips to 255."""
    if mode.startswith(("I", "F")):
        raise ValueError(f"{file} holds numbers of kind {mode}; convert it to 8 bits a channel")


def verify_images(samples: Sequence[Sample], threads: int = 4) -> None:
    """Decode every file once, so that a corrupt one shows before training and not in its midst.

    Raises:
        ValueError: some files cannot be read; the message counts them and names the first.
    """

    def problem(sample: Sample) -> str | None:
        try:
            read_image(sample[0])
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:  # decoding releases the interpreter lock
        problems = [found for found in pool.map(problem, samples) if found]
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(samples)} images cannot be used: " + " ".join(problems[:5])
        )


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Decoded and transformed images, addressed by (epoch, index).

    The transform's random draws are seeded by (seed, epoch, index): an image is augmented the
    same way by whichever worker, process or resumed run it is read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Callable[[Image.Image], Tensor],
        seed: int,
        mode: str,
    ) -> None:
        self.samples, self.transform, self.seed, self.mode = samples, transform, seed, mode

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        file, label = self.samples[index]
        image = read_image(file, self.mode)
        with seeded(key_seed(self.seed, epoch, index)):
            return self.transform(image), label


class FileLoader(EpochLoader):
    """Batches of images read from files.

    Args:
        samples: (file, label) of every image.
        transform: PIL image to normalized float32 (C, H, W).
        num_workers: processes that decode; 0 decodes in this one.
        mode: PIL's name of the color mode, "RGB" or "L".

    The other arguments are those of `EpochLoader`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Callable[[Image.Image], Tensor],
        batch_size: int,
        train: bool,
        *,
        num_workers: int = 0,
        mode: str = "RGB",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(samples), batch_size, train, seed, rank, world_size)
        self.num_workers = num_workers
        self.data = ImageFiles(samples, transform, seed, mode)

    def load(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield normalized (images, labels) for each batch of indices."""
        keys = [[(epoch, index) for index in batch.tolist()] for batch in batches]
        loader = DataLoader(
            self.data,
            batch_sampler=keys,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # of no effect on the images, but without it the loader draws from the global generator
            generator=generator(self.seed, epoch),
        )
        yield from loader
