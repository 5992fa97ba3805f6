"""Train the same network under several strategies for the same epochs; compare how well their modes agree.

    python benchmarks/strategies.py data=digits model=resnet20 schedule.epochs=5 --seeds 3

Words are overrides of conf/train.yaml, for all runs alike. ``standard``, ``adversarial`` and ``mixup`` train
the float network, which is then quantized without training (calibrated on training images);
``quantization-aware`` trains the low mode alone, and is compared with ``standard``'s float network;
``switchable`` trains all modes together. A step of the switchable network visits every mode, an adversarial
step runs the attack: seconds are reported beside.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from quantizable import load, quantize
from quantizable.assess.agreement import agreement
from quantizable.assess.callables import Model, mode_models, probabilities
from quantizable.assess.corruptions import corrupt, suite
from quantizable.assess.images import Images, images_of
from quantizable.data.choice import make_datamodule
from quantizable.report.files import write_json
from quantizable.training.run import train

FLOAT_ONLY = ("standard", "adversarial", "mixup")
CONF = str(Path(__file__).parents[1] / "conf")


def trained(words: list[str], *more: str) -> tuple[Path, float]:
    """Checkpoint and seconds of one run of train.py."""
    with initialize_config_dir(CONF, version_base="1.3"):
        results = train(compose("train", [*words, *more]))
    return Path(results["checkpoint"]), results["train_seconds"]


def after_training(checkpoint: Path, low: int, loader: object) -> dict[str, Model]:
    """The float network of a checkpoint, quantized without training: its low mode and its float mode."""
    float_network = load(checkpoint)
    network = quantize(float_network.to_float(), [low, 32])
    network.calibrate(loader)  # type: ignore[arg-type]
    network.reestimate_norms(loader, [low])  # type: ignore[arg-type]
    network.info = float_network.info
    return mode_models(network)


def shifted(images: Images, severity: int) -> Images:
    """The clean images and each corruption of them, in one set."""
    names = suite(images.pixels.shape[1])
    parts = [images.pixels, *(corrupt(images.pixels, name, severity) for name in names)]
    return Images(torch.cat(parts), images.labels.repeat(len(parts)), images.class_names)


def runs_of(
    words: list[str], low: int, seed: int
) -> tuple[dict[str, tuple[dict[str, Model], float]], Images]:
    """The low and the float model of every strategy with the seconds of its training, and the test images."""
    words = [*words, f"seed={seed}"]
    runs: dict[str, tuple[dict[str, Model], float]] = {}
    for name in FLOAT_ONLY:
        more = ["scheme=individual", "bits.modes=[32]", f"strategy={name}", f"run=strategy_{name}_{seed}"]
        checkpoint, seconds = trained(words, *more)
        datamodule = make_datamodule([w for w in words if w.startswith("data")], load(checkpoint).info)
        runs[name] = after_training(checkpoint, low, datamodule.train_dataloader()), seconds
    more = ["scheme=individual", f"bits.modes=[{low}]", f"run=strategy_quantization_aware_{seed}"]
    checkpoint, seconds = trained(words, *more)
    own = mode_models(load(checkpoint))
    runs["quantization-aware"] = {**own, "32": runs["standard"][0]["32"]}, seconds
    checkpoint, seconds = trained(words, f"bits.modes=[{low},8,32]", f"run=strategy_switchable_{seed}")
    runs["switchable"] = mode_models(load(checkpoint), [low, 32]), seconds
    return runs, images_of(datamodule)


def spread(values: list[float], unit: float = 100) -> str:
    """Mean (lowest to highest)."""
    low, high = unit * min(values), unit * max(values)
    return f"{unit * sum(values) / len(values):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="overrides of conf/train.yaml")
    parser.add_argument("--low", type=int, default=4, help="the low mode")
    parser.add_argument("--images", type=int, help="test images (default: all)")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1, help="repetitions, with the seeds 0, 1, ...")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/strategies.json"))
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        runs, images = runs_of(options.words, options.low, seed)
        images = images.sample(options.images)
        sets = {"clean": images, f"severity {options.severity}": shifted(images, options.severity)}
        for (name, (models, seconds)), (kind, chosen) in product(runs.items(), sets.items()):
            found = agreement(probabilities(models, chosen.pixels), chosen.labels)
            low, top = (found.accuracy[mode] for mode in found.names)
            rows.append(
                {"strategy": name, "set": kind, "seed": seed, "accuracy_low": low, "accuracy_32": top,
                 "disagreement": found.against_reference(found.names[0]), "train_seconds": seconds}
            )  # fmt: skip
        # written after every seed, so that an interrupted comparison leaves what it has
        about = {
            "words": options.words,
            "low": options.low,
            "images": len(images),
            "torch": torch.__version__,
        }
        write_json(options.json, {**about, "rows": rows})

    head = ["strategy", "set", f"accuracy {options.low}, %", "accuracy 32, %", "differs, %", "seconds"]
    table = Table(*head, title=f"mean (lowest to highest) of {options.seeds} seeds")
    for name, kind in product(runs, sets):
        of = [row for row in rows if (row["strategy"], row["set"]) == (name, kind)]
        shares = [[row[key][0] for row in of] for key in ("accuracy_low", "accuracy_32", "disagreement")]
        table.add_row(name, kind, *map(spread, shares), spread([row["train_seconds"] for row in of], 1))
    Console().print(table)


if __name__ == "__main__":
    main()
