"""Bits per layer and certified radii of a trained network: the numbers of docs/search.md.

    python benchmarks/search.py --checkpoint checkpoints/cifar10_resnet20/best.ckpt --root data \
        --output benchmarks/results/search [--parts fronts certify]

Candidates are scored on validation images; the best of each method is then measured on test images. All
measurements are kept in the output folder's `work`: a run that was cut off goes on where it was.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

import quantizable
from quantizable.assignment import add_modes
from quantizable.bits import BitMode
from quantizable.data import CIFAR10
from quantizable.network import QuantizableNetwork
from quantizable.results import write_json
from quantizable.search import (
    METHODS,
    Certification,
    Incremental,
    Outcome,
    Problem,
    Scorer,
    Smoothing,
    Space,
    average_certified_radius,
    bops_cost,
    certified_accuracy,
    parse_budget,
    sensitivity,
    solve,
)
from quantizable.search.front import print_outcomes, write_front
from quantizable.search.sensitivity import write_sensitivity


def spread(loader: object, count: int) -> tuple[Tensor, Tensor]:
    """`count` images and labels, evenly spread over a set that fits in memory."""
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))  # type: ignore[call-overload]
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return images[chosen], labels[chosen]


def fronts(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> dict:
    """The five searches at each budget; the best assignments on test images, norms fitted or not."""
    space = Space.of(network)
    cost = bops_cost(network, torch.zeros(1, 3, 32, 32))
    inputs = [x for (x, _), _ in zip(data.train_dataloader(), range(args.norm_batches), strict=False)]
    add_modes(network, space.modes)
    work = args.output / "journal"
    scorer = Scorer(network, *spread(data.val_dataloader(), args.images), work, inputs)
    tester = Scorer(network, *spread(data.test_dataloader(), args.test_images), work, inputs)
    plain = Scorer(network, *spread(data.test_dataloader(), args.test_images), work)
    rows, outcomes = [], list[Outcome]()
    for text in args.budgets:
        budget = parse_budget(text, space, cost)
        for name, method in METHODS.items():
            problem = Problem(space, cost, budget, scorer, args.objective, args.evaluations, args.seed)
            outcome = solve(name, method, problem)
            outcomes.append(outcome)
            if outcome.best is None:
                continue
            assignment = space.assignment(outcome.best.genome)
            rows.append(
                {
                    "budget": text,
                    "method": name,
                    "bops": outcome.best.cost,
                    "evaluations": len(outcome.trials),
                    "seconds": round(outcome.seconds, 1),
                    "validation": outcome.best.score,
                    "test": tester(assignment),
                    "test_norms_of_modes": plain(assignment),
                    "bits": {layer: mode.name for layer, mode in assignment.items()},
                }
            )
            write_front(args.output, outcomes, cost, args.objective)
            write_json(args.output / "fronts.json", about(args) | {"rows": rows})
    print_outcomes(outcomes, cost, args.objective)
    return {"rows": rows}


def one_layer(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> None:
    """Sensitivity in the network's own modes."""
    inputs = [x for (x, _), _ in zip(data.train_dataloader(), range(args.norm_batches), strict=False)]
    space = Space.of(network)
    scorer = Scorer(network, *spread(data.val_dataloader(), args.images), args.output / "journal", inputs)
    write_sensitivity(args.output, sensitivity(scorer, space, [BitMode(b, b) for b in (2, 4, 8)]))


def certify(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> None:
    """Each mode certified from scratch, and each lower one incrementally from the highest."""
    images, labels = spread(data.test_dataloader(), args.certified)
    smoothing = Smoothing(args.sigma, args.n, std=data.std, seed=args.seed)
    incremental = Incremental(smoothing, args.samples)
    settings = {"network": str(args.checkpoint), "images": len(images)}
    top, rows = network.modes[-1], {}
    scratch, runs = {}, {}
    for mode in reversed(network.modes):
        runs[mode] = Certification(args.output / "journal", f"scratch-{mode.name}", smoothing, settings)
        with network.at_bits(mode):
            scratch[mode] = runs[mode].run(network, images, labels)
        row = {"scratch": summary(scratch[mode])}
        if mode != top:
            own = settings | {"samples": args.samples}
            steps = Certification(args.output / "journal", f"incremental-{mode.name}", smoothing, own)

            def step(x: Tensor, image: int) -> object:
                return incremental.certify_like(network, runs[top], x, image)

            with network.at_bits(mode):
                found = steps.fill(step, images, labels)  # type: ignore[arg-type]
            pairs = list(zip(found, scratch[mode], strict=True))
            row["incremental"] = summary(found)
            row["larger_than_scratch"] = sum(a.certificate.radius > b.certificate.radius for a, b in pairs)
        rows[mode.name] = row
        write_json(args.output / "certified.json", about(args) | {"rows": rows})


def summary(results: list) -> dict:
    """ACR, certified accuracy at radii, samples per image and seconds."""
    return {
        "acr": average_certified_radius(results),
        "certified_accuracy": {r: certified_accuracy(results, r) for r in (0.0, 0.05, 0.1, 0.25, 0.5)},
        "samples_per_image": sum(r.certificate.samples for r in results) / len(results),
        "seconds": round(sum(r.seconds for r in results), 1),
    }


def about(args: argparse.Namespace) -> dict:
    """How the numbers were made."""
    settings = {k: v for k, v in vars(args).items() if k not in ("checkpoint", "root", "output", "parts")}
    results = args.checkpoint.parent / "results.json"
    return {
        "checkpoint": args.checkpoint.parent.name,
        "trained": json.loads(results.read_text())["modes"] if results.is_file() else None,
        "settings": settings,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


PARTS = {"sensitivity": one_layer, "fronts": fronts, "certify": certify}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--budgets", nargs="+", default=["4bit", "3bit", "5bit", "6bit"])
    parser.add_argument("--objective", default="accuracy")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--images", type=int, default=500, help="validation images that score a candidate")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--norm-batches", type=int, default=2)
    parser.add_argument("--certified", type=int, default=100, help="test images to certify")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=100, help="of incremental certification")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data = CIFAR10(args.root, download=False)
    data.prepare_data()
    data.setup()
    for part in args.parts:
        started = time.perf_counter()
        PARTS[part](args, quantizable.load(args.checkpoint), data)
        print(f"{part}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
