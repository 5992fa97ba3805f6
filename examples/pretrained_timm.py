"""Make a pretrained timm network switchable and see how close each mode stays to the float network.

    python examples/pretrained_timm.py --model resnet18 --pretrained --images photos/

Without ``--pretrained`` nothing is downloaded: the network has random weights. Without ``--images`` it sees
crops of scikit-learn's two sample photographs. Nothing is trained here; low modes need training
(``train.py``, ``examples/custom_module.py``) to be of use.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

import quantizable


def photographs(folder: Path | None) -> list[Image.Image]:
    """The pictures of a folder, or 12 crops of the sample photographs."""
    if folder is not None:
        return [Image.open(path).convert("RGB") for path in sorted(folder.iterdir()) if path.is_file()]
    pictures = [Image.fromarray(array) for array in load_sample_images().images]  # 640 x 427
    corners = [(x, y) for x in (0, 190, 380) for y in (0, 160)]
    return [picture.crop((x, y, x + 256, y + 256)) for picture in pictures for x, y in corners]


def prepared(pictures: Sequence[Image.Image], network: nn.Module) -> Tensor:
    """Images ``[N, 3, H, W]``, resized and normalized as the network was trained."""
    transform = create_transform(**resolve_model_data_config(network))
    return torch.stack([transform(picture) for picture in pictures])


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print, and return by mode, the relative error of the logits against the float network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18", help="any timm network")
    parser.add_argument("--pretrained", action="store_true", help="download timm's weights")
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    float_network = timm.create_model(args.model, pretrained=args.pretrained).eval()
    images = prepared(photographs(args.images), float_network)
    half = len(images) // 2

    network = quantizable.quantize(float_network, bits=[2, 4, 8, 32])
    network.calibrate([images[:half]])  # sets the step sizes of the activations

    errors = {}
    with torch.inference_mode():
        reference = float_network(images[half:])
        for mode in network.modes:
            network.set_bits(mode)  # no copy, no reloading: the same weights at other bits
            logits = network(images[half:])
            errors[mode.name] = float((logits - reference).norm() / reference.norm())
            agree = (logits.argmax(1) == reference.argmax(1)).float().mean()
            print(f"{mode.name:>2} bits: error {errors[mode.name]:.3f}, same class {agree:.0%}")
    return errors


if __name__ == "__main__":
    main()
