"""Accuracy of sampled modes against all modes, after equal epochs and after equal wall time.

    python benchmarks/equal_time.py --data data --weights resnet20-12fca82f.th --epochs 6

Seven modes of a CIFAR-10 ResNet-20 from the float checkpoint. All modes cost 7 passes a step; the sandwich,
random-k and layerwise (the highest mode and two mixtures) 3, so that these also run for 7/3 of the epochs.
Each run is a ``train.py`` run in a folder of its own: what is finished is not run again, what was cut off is
resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runs import trained
from steps import command_line, positive, save, table

MODES = [2, 3, 4, 5, 6, 8, 32]
SAMPLED_PASSES = 3
SCHEMES = ("quantizable", "sandwich", "random_k", "layerwise")


def run(args: argparse.Namespace, scheme: str, epochs: int) -> dict[str, Any]:
    """The results of one run, trained unless they are there."""
    name = f"equal_time_{scheme}_{epochs}" + (f"_seed{args.seed}" if args.seed else "")
    name += f"_share{args.share}" if args.share < 1 else ""
    overrides = [
        "experiment=cifar10_resnet20", f"data.root={args.data}", f"model.weights={args.weights}",
        f"bits.modes={MODES}".replace(" ", ""), f"scheme={scheme}", f"schedule.epochs={epochs}",
        f"seed={args.seed}", f"trainer.limit_train_batches={args.share}",
        *(["scheme.sampler.samples=2"] if scheme == "layerwise" else []),
    ]  # fmt: skip
    return trained(name, overrides, args.output)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument("--weights", required=True, help="float ResNet-20 checkpoint")
    parser.add_argument("--epochs", type=positive, default=6, help="of the run with all modes")
    parser.add_argument("--output", type=Path, default=Path("checkpoints"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the training images in an epoch, to 1.0")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    args = parser.parse_args()
    longer = round(args.epochs * len(MODES) / SAMPLED_PASSES)
    rows: list[dict[str, Any]] = []
    arms = [(scheme, args.epochs) for scheme in args.schemes]
    for scheme, epochs in arms + [(scheme, longer) for scheme in args.schemes if scheme != "quantizable"]:
        results = run(args, scheme, epochs)
        top1 = {f"{mode} bit": 100 * values["top1"] for mode, values in results["modes"].items()}
        passes = len(MODES) if scheme == "quantizable" else SAMPLED_PASSES
        row = {"scheme": scheme, "epochs": epochs * args.share, "passes a step": passes}
        row["minutes"] = results["train_seconds"] / 60
        rows.append(row | {"mean top-1, %": sum(top1.values()) / len(top1)} | top1)
        save("equal_time", "cpu", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
