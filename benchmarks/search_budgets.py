"""Found assignments against uniform bits, and methods against each other in equal time, without training.

    python benchmarks/search_budgets.py --checkpoint checkpoints/cifar10_resnet20.qz --root data \
        --output benchmarks/results/search_budgets --activations 4 --budgets weight_bits=2.5 bytes=4bit

Candidates are scored on validation images by their KL divergence from the highest mode: it tells candidates
apart on few images, and needs no labels, which a network that was trained on these images knows. What each
method chose is then measured on test images.

All measurements are kept in the output folder, so that a run that was cut off goes on where it was.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from search import spread

import quantizable
from quantizable.data import CIFAR10
from quantizable.interface.budget_words import read_budgets
from quantizable.network import QuantizableNetwork
from quantizable.report.files import write_json
from quantizable.search import (
    METHODS,
    Cost,
    Problem,
    Scorer,
    Space,
    activation_bits_cost,
    bops_cost,
    bytes_cost,
    make_budget,
    solve,
    weight_bits_cost,
)
from quantizable.storage.assignment import add_modes
from quantizable.storage.network_data import trained_data

EVALUATIONS = 100_000  # time ends first


def main() -> None:
    """Search each budget with each method, and measure what was chosen on test images."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    network = quantizable.load(args.checkpoint)
    data = trained_data(network, [f"data.root={args.root}"])
    assert isinstance(data, CIFAR10)
    data.prepare_data()
    data.setup()
    space = Space.of(network, activations=args.activations)
    add_modes(network, Space.of(network).modes)  # the same network whatever is held: its scores are shared
    inputs = [x for _, (x, _) in zip(range(args.norm_batches), data.train_dataloader(), strict=False)]
    clock = time.process_time if args.processor_time else time.perf_counter
    found, test = (
        Scorer(network, *spread(loader, count), args.output / "journal", inputs, clock=clock)
        for loader, count in (
            (data.val_dataloader(), args.images),
            (data.test_dataloader(), args.test_images),
        )
    )
    path = args.output / "budgets.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    done = {(row["budget"], tuple(row["activations"]), row["method"]) for row in rows}
    for named in [budget for words in args.budgets for budget in read_budgets(words.split("+"), "bops")]:
        budget = make_budget(named, space, lambda name: make_cost(name, network, space))
        for name in args.methods:
            if (str(budget), space.activations, name) in done:
                continue
            problem = Problem(space, budget, found, "kl", EVALUATIONS, args.seed, args.seconds)
            outcome = solve(name, METHODS[name], problem)
            assignment = space.assignment(outcome.best.genome)
            row = {
                "budget": str(budget),
                "activations": space.activations,
                "method": name,
                "costs": outcome.best.costs,
                "evaluations": len(outcome.trials),
                "looks": outcome.looks,
                "seconds": round(outcome.seconds, 1),
                "scored": outcome.best.score,
                "test": test(assignment),
                "bits": {layer: mode.name for layer, mode in assignment.items()},
            }
            rows.append(row)
            settings = {k: str(v) for k, v in vars(args).items() if k not in ("output", "root", "checkpoint")}
            write_json(path, {"checkpoint": args.checkpoint.name, "settings": settings, "rows": rows})
            print(line(row), flush=True)


def make_cost(name: str, network: QuantizableNetwork, space: Space) -> Cost:
    """The cost of that name for one CIFAR image."""
    image = torch.zeros(1, 3, 32, 32)
    if name == "activation_bits":
        return activation_bits_cost(network, space.layers, image)
    if name == "weight_bits":
        return weight_bits_cost(network, space.layers)
    return bops_cost(network, image) if name == "bops" else bytes_cost(network)


def line(row: dict) -> str:
    """A row of a Markdown table."""
    costs = " ".join(f"{value:.4g}" for value in row["costs"].values())
    scored, test = row["scored"], row["test"]
    cells = [
        row["budget"],
        ",".join(map(str, row["activations"])),
        row["method"],
        costs,
        f"{scored['kl']:.4f}",
        f"{test['kl']:.4f}",
        f"{100 * test['accuracy']:.2f}",
        f"{100 * test['agreement']:.2f}",
        f"{row['evaluations']} + {row['looks']}",
        f"{row['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="data folder, with CIFAR-10 in it")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search_budgets"))
    parser.add_argument(
        "--budgets", nargs="+", default=["weight_bits=2.5"], help="bytes=4bit+bops=3bit: both"
    )
    parser.add_argument("--activations", nargs="+", type=int, default=[4], help="widths to choose from")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["uniform", "fisher"])
    parser.add_argument("--seconds", type=float, default=40, help="of each method and budget")
    parser.add_argument("--processor-time", action="store_true", help="count these, where other programs run")
    parser.add_argument("--images", type=int, default=256, help="validation images to score on")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--norm-batches", type=int, default=1, help="of 128 training images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
