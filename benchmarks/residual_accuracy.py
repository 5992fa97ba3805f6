"""Accuracy after equal training with float residual additions and with additions on integer grids.

    python benchmarks/residual_accuracy.py --data data --seeds 0,1,2 --output residual_accuracy.json

Every network starts from the shipped ResNet-20 for CIFAR-10: its 8-bit weights as float weights, its norms
and step sizes of each mode. Step sizes of additions are calibrated. All are trained in all their modes for
the same steps on the same batches. Prints the test accuracy of each mode, before and after, how many
predictions differ from those with float additions, and the mean difference with its 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from found import interval
from torch import Tensor
from torch.nn.functional import cross_entropy

import quantizable

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "cifar10_resnet20.qz"


def network_like(
    shipped: quantizable.QuantizableNetwork, bits: list[int], residual: int | None, images: Tensor
) -> Any:
    """A trainable network with the shipped weights, norms and step sizes; others fit the images."""
    network = quantizable.quantize(shipped.to_float(8), bits, residual=residual)
    norms = {key: value for key, value in shipped.state_dict().items() if ".norms." in key}
    network.load_state_dict(norms, strict=False)
    network.calibrate([images])
    scales = {
        key.replace("stored_scale", "scale"): value
        for key, value in shipped.state_dict().items()
        if key.endswith("stored_scale")
    }
    network.load_state_dict(scales, strict=False)
    return network


def images_of(root: Path, info: dict[str, Any], train: bool) -> tuple[Tensor, Tensor]:
    """Normalized images ``[N, 3, 32, 32]`` and labels of CIFAR-10."""
    data = torchvision.datasets.CIFAR10(root, train=train)
    mean, std = (torch.tensor(info[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    return (torch.from_numpy(data.data).permute(0, 3, 1, 2) / 255 - mean) / std, torch.tensor(data.targets)


def batch_of(images: Tensor, labels: Tensor, size: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random images, mirrored by chance and moved by up to four pixels, with their labels."""
    chosen = torch.randint(len(images), (size,), generator=source)
    x = torch.nn.functional.pad(images[chosen], [4] * 4)
    moves = torch.randint(9, (size, 2), generator=source).tolist()
    x = torch.stack([one[:, i : i + 32, j : j + 32] for one, (i, j) in zip(x, moves, strict=True)])
    mirrored = torch.rand(size, generator=source) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x), labels[chosen]


def train(network: Any, images: Tensor, labels: Tensor, steps: int, seed: int, lr: float) -> None:
    """SGD on the sum of the losses of all modes, one batch of 128 a step, a cosine to zero."""
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        x, y = batch_of(images, labels, 128, source)
        optimizer.zero_grad(set_to_none=True)
        for mode in reversed(network.modes):
            network.set_bits(mode)
            cross_entropy(network(x), y).backward()
        optimizer.step()


def print_differences(rows: list[dict[str, Any]]) -> None:
    """Of each width of grids and mode: accuracy less that with float additions, after training, in points."""
    after = {
        (r["additions"], r["bits"], r["seed"]): r["accuracy"] / 100 for r in rows if r["when"] == "after"
    }
    for word, bits in dict.fromkeys((word, bits) for word, bits, _ in after if word != "float"):
        seeds = [seed for w, b, seed in after if (w, b) == (word, bits)]
        differences = [after[word, bits, seed] - after["float", bits, seed] for seed in seeds]
        print(f"additions {word}, mode {bits}: {interval(differences)} points")


@torch.inference_mode()
def predictions(network: Any, images: Tensor) -> dict[str, Tensor]:
    """The predicted class of every image, by mode."""
    network.eval()
    found = {}
    for mode in network.modes:
        network.set_bits(mode)
        found[mode.name] = torch.cat([network(x).argmax(1) for x in images.split(500)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--residual", default="float,8", help="bits of the additions' operands, or float")
    parser.add_argument("--bits", default="2,4,8")
    parser.add_argument("--steps", type=int, default=390)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    if "8" not in args.bits.split(
        ","
    ):  # step sizes of additions are fitted in it, before the trained ones are there
        parser.error(f"--bits {args.bits} lacks 8; give the modes and 8, as 2,8")
    shipped = quantizable.load(SHIPPED)
    images, labels = images_of(args.data, shipped.info, train=True)
    test, truth = (x[: args.test_images] for x in images_of(args.data, shipped.info, train=False))
    rows: list[dict[str, Any]] = []
    for seed in map(int, args.seeds.split(",")):
        plain: dict[str, dict[str, Tensor]] = {}
        for word in args.residual.split(","):
            begin = time.perf_counter()
            residual = None if word == "float" else int(word)
            network = network_like(shipped, [*map(int, args.bits.split(","))], residual, images[:512])
            for when in ("before", "after"):
                if when == "after":
                    train(network, images, labels, args.steps, seed, args.lr)
                answers = predictions(network, test)
                if residual is None:
                    plain[when] = answers
                for mode, found in answers.items():
                    accuracy = 100 * (found == truth).float().mean().item()
                    row = {"seed": seed, "additions": word, "when": when, "bits": mode}
                    rows.append({**row, "accuracy": round(accuracy, 2)})
                    if plain:  # else float additions were not asked for, or come later
                        rows[-1]["differing"] = int((found != plain[when][mode]).sum())
                    print(rows[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
            if args.output:
                about = {"steps": args.steps, "lr": args.lr, "test_images": len(test)}
                args.output.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")
    if "float" in args.residual.split(","):
        print_differences(rows)


if __name__ == "__main__":
    main()
