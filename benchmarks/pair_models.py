"""The models of the outside pairs of docs/results/assessment.md: files of other makers, and plain functions.

    export PAIR_WEIGHTS=WEIGHTS PYTHONPATH=benchmarks        # the folder of resnet20-12fca82f.th
    python benchmarks/pair_models.py DATA FOLDER             # writes resnet20.onnx and resnet20-int8.xml
    quantizable assess FOLDER/resnet20.onnx --against FOLDER/resnet20-int8.xml --surrogate model.qz ...
    quantizable assess pair_models:resnet20 --against model.qz:4 ...
    quantizable assess pair_models:perceptron --against pair_models:rounded data=digits ...
    python benchmarks/pair_models.py --table ASSESSMENT ...  # of the assessment.json that each command left

The first pair is a published ResNet-20 as an ONNX file, and what NNCF makes of it with 300 training images.
The last is a perceptron of scikit-learn, and itself with weights of 6 bits: neither has a gradient, and both
give probabilities.
"""

import argparse
import json
import os
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from steps import machine
from torch import Tensor, nn

from quantizable.assess.images import images_of
from quantizable.data import CIFAR10, Digits
from quantizable.models.create import create_model
from quantizable.models.weights import load_float_weights
from quantizable.report.files import write_json

MEAN, STD = (torch.tensor(values).view(-1, 1, 1) for values in (CIFAR10.mean, CIFAR10.std))
WEIGHTS = "resnet20-12fca82f.th"
FITTED = 300  # images that NNCF looks at
LARGEST = 31  # code of a weight of 6 bits


@cache  # a search asks for it many times
def published() -> nn.Module:
    """The float ResNet-20 of normalized images, in evaluation mode."""
    model = create_model("resnet20", 10).eval().requires_grad_(False)
    load_float_weights(model, Path(os.environ["PAIR_WEIGHTS"]) / WEIGHTS)
    return model


def resnet20(pixels: Tensor) -> Tensor:
    """Its logits."""
    return published()((pixels - MEAN) / STD)


@cache
def trained() -> MLPClassifier:
    """A perceptron of 64 hidden neurons, trained on the digits' training images."""
    images = images_of(Digits(val_size=0), "train")
    return MLPClassifier(64, max_iter=300, random_state=0).fit(flat(images.pixels), images.labels.numpy())


@cache
def trained_and_rounded() -> MLPClassifier:
    """The same with the weights of each layer rounded to 6 bits."""
    model = deepcopy(trained())
    steps = [abs(weight).max() / LARGEST for weight in model.coefs_]
    model.coefs_ = [(w / step).round() * step for w, step in zip(model.coefs_, steps, strict=True)]
    return model


def flat(pixels: Tensor) -> np.ndarray:
    """Images as scikit-learn takes them, ``[B, values]``."""
    return pixels.detach().flatten(1).double().numpy()


def perceptron(pixels: Tensor) -> Tensor:
    """Probabilities."""
    return torch.from_numpy(trained().predict_proba(flat(pixels)))


def rounded(pixels: Tensor) -> Tensor:
    """Probabilities."""
    return torch.from_numpy(trained_and_rounded().predict_proba(flat(pixels)))


def write_files(data: Path, folder: Path) -> None:
    """``resnet20.onnx`` and ``resnet20-int8.xml``, which take normalized images."""
    import nncf
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    path, example = folder / "resnet20.onnx", torch.zeros(2, 3, 32, 32)
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(published(), (example,), path, dynamo=True, dynamic_shapes=batch)
    images = images_of(CIFAR10(root=str(data)), "train").sample(FITTED)
    fit = nncf.Dataset([((part - MEAN) / STD).numpy() for part in images.pixels.split(1)])
    graph = nncf.quantize(openvino.Core().read_model(path), fit, subset_size=FITTED)
    openvino.save_model(graph, folder / "resnet20-int8.xml", compress_to_fp16=False)


def show(files: list[Path], kept: Path) -> None:
    """A Markdown table of success in %, a column for each pair; what it shows is kept as JSON."""
    found = {}
    for path in files:
        about = json.loads(path.read_text())
        found[about["title"]] = {
            "clean": {key: about["shifts"][0][key] for key in ("accuracy", "disagreement", "images")},
            "search": about["search"],
            "skipped": about["skipped"],
        }
    write_json(kept, {"machine": machine("cpu"), "pairs": found})
    keys = dict.fromkeys((r["constraint"], r["searcher"]) for one in found.values() for r in one["search"])
    print("| limit | searcher |", " | ".join(found), "|")
    print("| --- " * (2 + len(found)) + "|")
    for limit, searcher in keys:
        cells = []
        for one in found.values():
            rates = [
                r["success"] for r in one["search"] if (r["constraint"], r["searcher"]) == (limit, searcher)
            ]
            cells.append("{:.1f} ({:.1f} to {:.1f})".format(*(100 * v for v in rates[0])) if rates else "")
        print(f"| {limit} | {searcher} |", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/assess_pairs.json"))
    options = parser.parse_args()
    if options.table:
        show(options.paths, options.json)
    else:
        write_files(*options.paths)


if __name__ == "__main__":
    main()
