"""Train the same network under several strategies for the same epochs; compare how well their modes agree.

    python benchmarks/strategies.py data=digits model=resnet20 schedule.epochs=5

Words are overrides of conf/train.yaml, for all runs alike. ``standard``, ``adversarial`` and ``mixup`` train
the float network, which is then quantized without training (calibrated on training images);
``quantization-aware`` trains the low mode alone, and is compared with ``standard``'s float network;
``switchable`` trains all modes together. A step of the switchable network visits every mode, an adversarial
step runs the attack: seconds are reported beside.
"""

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from quantizable import load, quantize
from quantizable.assess.agreement import agreement
from quantizable.assess.corruptions import corrupt, suite
from quantizable.assess.images import Images, images_of
from quantizable.assess.models import Model, mode_models, probabilities
from quantizable.assess.report import percent
from quantizable.data.choice import make_datamodule
from quantizable.results import write_json
from quantizable.training import train

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="overrides of conf/train.yaml")
    parser.add_argument("--low", type=int, default=4, help="the low mode")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/strategies.json"))
    options = parser.parse_args()
    low = options.low

    runs: dict[str, tuple[dict[str, Model], float]] = {}
    for name in FLOAT_ONLY:
        words = ["scheme=individual", "bits.modes=[32]", f"strategy={name}", f"run=strategy_{name}"]
        checkpoint, seconds = trained(options.words, *words)
        network = load(checkpoint)
        data = [w for w in options.words if w.startswith("data")]
        datamodule = make_datamodule(data, network.info)
        runs[name] = after_training(checkpoint, low, datamodule.train_dataloader()), seconds
    words = ["scheme=individual", f"bits.modes=[{low}]", "run=strategy_quantization_aware"]
    checkpoint, seconds = trained(options.words, *words)
    own = mode_models(load(checkpoint))
    runs["quantization-aware"] = {**own, "32": runs["standard"][0]["32"]}, seconds
    checkpoint, seconds = trained(options.words, f"bits.modes=[{low},8,32]", "run=strategy_switchable")
    runs["switchable"] = mode_models(load(checkpoint), [low, 32]), seconds

    images = images_of(datamodule).sample(options.images)
    sets = {"clean": images, f"severity {options.severity}": shifted(images, options.severity)}
    table = Table("strategy", "set", f"accuracy {low}, %", "accuracy 32, %", "differs, %", "seconds")
    rows = []
    for name, (models, seconds) in runs.items():
        for kind, chosen in sets.items():
            found = agreement(probabilities(models, chosen.pixels), chosen.labels)
            a, b = (found.accuracy[mode] for mode in found.names)
            differs = found.against_reference(found.names[0])
            table.add_row(name, kind, percent(a), percent(b), percent(differs), f"{seconds:.0f}")
            rows.append(
                {"strategy": name, "set": kind, "accuracy_low": a, "accuracy_32": b, "disagreement": differs,
                 "train_seconds": seconds}
            )  # fmt: skip
    Console().print(table)
    write_json(options.json, {"words": options.words, "low": low, "images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
