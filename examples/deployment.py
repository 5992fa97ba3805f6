"""Deploy a trained network: one .qz file with every mode, an ONNX file of one mode, and a session.

    python examples/deployment.py                              # the network that ships here
    python examples/deployment.py --model checkpoints/RUN/best.ckpt --images photos/ --output exported

Without ``--images`` it classifies crops of scikit-learn's two sample photographs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

import quantizable
from quantizable import deploy

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "cifar10_resnet20.qz"


def photographs(folder: Path | None) -> list[Image.Image]:
    """The pictures of a folder, or 24 crops of the sample photographs."""
    if folder is not None:
        return [Image.open(path) for path in sorted(folder.iterdir()) if path.is_file()]
    pictures = [Image.fromarray(array) for array in load_sample_images().images]  # 640 x 427
    corners = [(x, y) for x in (0, 140, 280, 420) for y in (0, 100, 200)]
    return [picture.crop((x, y, x + 200, y + 200)) for picture in pictures for x, y in corners]


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Export, run and compare; return by file and mode the share of images that get PyTorch's class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHIPPED, help="a .qz file or a checkpoint of training")
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--engine", default="openvino", choices=("onnxruntime", "openvino"))
    parser.add_argument("--output", type=Path, default=Path("exported"))
    args = parser.parse_args(argv)

    network = quantizable.load(args.model)  # network.info holds what the data of training looked like
    integer_modes = [mode for mode in network.modes if not mode.is_float]
    info = network.info
    prepare = v2.Compose([
        v2.RGB(), v2.Resize((info["image_size"],) * 2, antialias=True), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(info["mean"], info["std"]),
    ])  # fmt: skip
    images = torch.stack([prepare(picture) for picture in photographs(args.images)])

    args.output.mkdir(parents=True, exist_ok=True)
    deploy.save_qz(network, args.output / "model.qz")  # every integer mode in one file
    lowest, highest = integer_modes[0], integer_modes[-1]
    deploy.export_onnx(network, args.output / f"model_{lowest}.onnx", bits=lowest)  # one mode, for any engine

    agreement: dict[str, float] = {}

    def compare(session: deploy.Session, mode: quantizable.BitMode) -> None:
        logits = session(images)  # an array [N, classes]
        with network.at_bits(mode), torch.inference_mode():
            expected = network(images).numpy()
        name = f"{session.path.name} at {mode} bits on {session.engine}"
        agreement[name] = float((logits.argmax(1) == expected.argmax(1)).mean())
        print(
            f"{name}: {agreement[name]:.0%} the same class, logits within {abs(logits - expected).max():.1e}"
        )

    session = deploy.Session(args.output / "model.qz", engine=args.engine, bits=highest, threads=1)
    compare(session, highest)
    session.set_bits(lowest)  # compiled at first use, instant from then on
    compare(session, lowest)
    compare(deploy.Session(args.output / f"model_{lowest}.onnx", threads=1), lowest)
    return agreement


if __name__ == "__main__":
    main()
