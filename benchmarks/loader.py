"""Images per second of the in-memory loader beside torchvision's data set in a DataLoader.

    python benchmarks/loader.py --root data [--batches 100] [--rounds 3] [--json loader.json]

Both give CIFAR-10 training batches, cropped with 4 pixels of padding, flipped and normalized.
The contenders take turns and the fastest of the rounds counts, so that a busy machine hits all
alike. The last line sets the time per batch against a training step of a float ResNet-20, the
cheapest step there is to feed: one of several bit modes takes several times as long.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from steps import save
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from quantizable.data import CIFAR10
from quantizable.models.create import create_model


def torchvision_loader(root: Path, batch_size: int, workers: int) -> DataLoader:
    """The usual way: one PIL image after the other."""
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR10.mean, CIFAR10.std),
        ]
    )
    data = datasets.CIFAR10(root, train=True, transform=transform)
    return DataLoader(
        data,
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )


def seconds_per_batch(loader: Iterable, batches: int) -> float:
    """Mean over `batches` batches; the first, which starts workers, is not counted."""
    iterator = iter(loader)
    next(iterator)
    start = time.perf_counter()
    count = sum(1 for _ in itertools.islice(iterator, batches))
    return (time.perf_counter() - start) / count


def step_seconds(batch_size: int, steps: int = 5) -> float:
    """One forward and backward pass of a float ResNet-20; the fastest of `steps`."""
    model = create_model("resnet20", 10)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        F.cross_entropy(model(images), labels).backward()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder with CIFAR-10")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=100, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    def in_memory(augment: str) -> Callable[[], Iterable]:
        data = CIFAR10(options.root, options.batch_size, augment=augment, download=False)
        data.prepare_data()
        return data.train_dataloader

    def one_by_one(workers: int) -> Callable[[], Iterable]:
        loader = torchvision_loader(options.root, options.batch_size, workers)
        return lambda: loader

    contenders = {
        "in memory, crop_flip": in_memory("crop_flip"),
        "in memory, randaugment": in_memory("randaugment"),
        "torchvision, crop and flip, 0 workers": one_by_one(0),
        "torchvision, crop and flip, 2 workers": one_by_one(2),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, make in contenders.items():
            times[name].append(seconds_per_batch(make(), options.batches))
    step = step_seconds(options.batch_size)

    table = Table("loader", "images/s", "ms per batch", "share of a step, %")
    figures = {}
    for name, rounds in times.items():
        best = min(rounds)
        figures[name] = {
            "images_per_second": options.batch_size / best,
            "ms_per_batch": best * 1e3,
            "share_of_step": best / step,
        }
        rate, share = options.batch_size / best, 100 * best / step
        table.add_row(name, f"{rate:,.0f}", f"{best * 1e3:.2f}", f"{share:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"A training step of a float ResNet-20, batch {options.batch_size}, takes "
        f"{step * 1e3:.0f} ms on {torch.get_num_threads()} threads."
    )
    rows = [
        {"loader": name} | {key.replace("_", " "): v for key, v in f.items()} for name, f in figures.items()
    ]
    save("loader", "cpu", rows)
    if options.json:
        report = {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "batch_size": options.batch_size,
            "step_ms": step * 1e3,
            "loaders": figures,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
