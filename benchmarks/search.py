"""Bits per layer and certified radii of a trained network: the numbers of docs/search.md.

    python benchmarks/search.py --checkpoint checkpoints/cifar10_resnet20/best.ckpt --root data \
        --output benchmarks/results/search [--parts fronts certify]

The best of each method is measured on test images that no candidate was scored on. Candidates are scored on
validation images or, with `--score-on test`, on other test images: where the float network that training
started from has seen the validation images, they favor what stays close to that network.

All measurements are kept in the output folder's `journal`: a run that was cut off goes on where it was, and
its tables hold what is done so far.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

import quantizable
from quantizable.bits import BitMode
from quantizable.data import CIFAR10
from quantizable.network import QuantizableNetwork
from quantizable.report.files import write_json
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
from quantizable.seeds import key_seed
from quantizable.storage.assignment import add_modes, noisy_inputs
from quantizable.storage.digests import digest_network, digest_tensors


def spread(loader: object, count: int, half: int | None = None) -> tuple[Tensor, Tensor]:
    """`count` images and labels, evenly spread over a set that fits in memory, or over every second image."""
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))  # type: ignore[call-overload]
    if half is not None:
        images, labels = images[half::2], labels[half::2]
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return images[chosen], labels[chosen]


def scored_on(args: argparse.Namespace, data: CIFAR10, count: int) -> tuple[Tensor, Tensor]:
    """Images and labels to score candidates on."""
    if args.score_on == "val":
        return spread(data.val_dataloader(), count)
    return spread(data.test_dataloader(), count, half=0)


def fronts(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> None:
    """The five searches at each budget for each objective; the best assignments on test images."""
    space = Space.of(network)
    cost = bops_cost(network, torch.zeros(1, 3, 32, 32))
    budgets = {text: parse_budget(text, space, cost) for text in args.budgets}
    clean = [x for x, _ in islice(data.train_dataloader(), args.norm_batches)]
    add_modes(network, space.modes)
    for objective in args.objectives:
        inputs = list(noisy_inputs(clean, args.sigma, data.std)) if objective == "acr" else clean
        score, test = scorers(args, objective, network, data, inputs)
        folder = args.output / objective
        folder.mkdir(exist_ok=True)
        rows, outcomes = [], list[Outcome]()
        for text, budget in budgets.items():
            for name, method in {"the mode itself": partial(mode_itself, text), **METHODS}.items():
                outcome = solve(
                    name, method, Problem(space, budget, score, objective, args.evaluations, args.seed)
                )
                outcomes.append(outcome)
                write_front(folder, outcomes, objective)
                assignment = space.assignment(outcome.best.genome)
                row = {
                    "budget": text,
                    "method": name,
                    "bops": outcome.best.cost,
                    "evaluations": len(outcome.trials),
                    "seconds": round(outcome.seconds, 1),
                    "scored": outcome.best.score,
                    "test": test(assignment),
                    "bits": {layer: mode.name for layer, mode in assignment.items()},
                }
                rows.append(row)
                write_json(folder / "fronts.json", about(args) | {"objective": objective, "rows": rows})
                found = " ".join(f"{part} {row[part][objective]:.4f}" for part in ("scored", "test"))
                print(f"{objective}, {text}, {name}: {found}, {row['seconds']} s", flush=True)
        print_outcomes(outcomes, objective)


def mode_itself(budget: str, problem: Problem) -> None:
    """For a budget such as ``4bit`` the network's mode 4, if it holds that."""
    mode = BitMode.parse(budget.removesuffix("bit"))
    if mode in problem.space.modes:
        problem.evaluate(problem.space.uniform(mode))


def scorers(
    args: argparse.Namespace,
    objective: str,
    network: QuantizableNetwork,
    data: CIFAR10,
    inputs: Sequence[Tensor],
) -> tuple[Scorer, Scorer]:
    """What scores candidates, and their best on other images, which are test images."""
    make = partial(Scorer, network, folder=args.output / "journal", norm_inputs=inputs)
    test = data.test_dataloader()
    if objective != "acr":
        return make(*scored_on(args, data, args.images)), make(*spread(test, args.test_images, half=1))
    # agreement only breaks ties here: the time goes into certificates
    few = Incremental(Smoothing(args.sigma, args.n, std=data.std, seed=args.seed), args.acr_samples)
    # measured with other noise than they were chosen by
    more = replace(
        few, samples=args.samples, smoothing=replace(few.smoothing, seed=key_seed("test noise", args.seed))
    )
    count, test_count = args.robust_images, args.robust_test_images
    return (
        make(*scored_on(args, data, max(250, count)), incremental=few, robust_images=count),
        make(*spread(test, max(250, test_count), half=1), incremental=more, robust_images=test_count),
    )


def one_layer(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> None:
    """Sensitivity in the network's own modes."""
    inputs = [x for x, _ in islice(data.train_dataloader(), args.norm_batches)]
    space = Space.of(network)
    scorer = Scorer(network, *scored_on(args, data, args.images), args.output / "journal", inputs)
    write_sensitivity(args.output, sensitivity(scorer, space, [BitMode(b, b) for b in (2, 4, 8)]))


def certify(args: argparse.Namespace, network: QuantizableNetwork, data: CIFAR10) -> None:
    """Each mode certified from scratch, and each lower one incrementally from the highest."""
    images, labels = spread(data.test_dataloader(), args.certified)
    smoothing = Smoothing(args.sigma, args.n, std=data.std, seed=args.seed)
    incremental = Incremental(smoothing, args.samples)
    settings = {"network": digest_network(network), "images": digest_tensors([images, labels])}
    top, rows = network.modes[-1], {}
    scratch, runs = {}, {}
    asked = network.modes if args.modes is None else [network.check_mode(mode) for mode in args.modes]
    for mode in sorted({*asked, top}, reverse=True):  # the highest first: the others go on from it
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
        print(f"mode {mode.name}: {row}", flush=True)
        write_json(args.output / "certified.json", about(args) | {"rows": rows})


def summary(results: list) -> dict:
    """ACR, certified accuracy at radii, samples per image and seconds."""
    return {
        "acr": average_certified_radius(results),
        "certified_accuracy": {r: certified_accuracy(results, r) for r in (0.0, 0.05, 0.1, 0.25, 0.5, 0.75)},
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
    parser.add_argument("--root", type=Path, required=True, help="data folder, with CIFAR-10 in it")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/search"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--budgets", nargs="+", default=["4bit", "3bit", "5bit", "6bit"])
    parser.add_argument("--objectives", nargs="+", choices=("accuracy", "acr"), default=["accuracy", "acr"])
    parser.add_argument("--score-on", choices=("val", "test"), default="val")
    parser.add_argument("--evaluations", type=int, default=50, help="candidates of each method and budget")
    parser.add_argument("--images", type=int, default=1000, help="to score on, for accuracy")
    parser.add_argument("--test-images", type=int, default=5000, help="test images, for accuracy")
    parser.add_argument("--robust-images", type=int, default=16, help="to score on, for acr")
    parser.add_argument("--acr-samples", type=int, default=50, help="noisy copies of each, for acr")
    parser.add_argument("--robust-test-images", type=int, default=50, help="test images, for acr")
    parser.add_argument("--norm-batches", type=int, default=1, help="of 128 training images")
    parser.add_argument("--certified", type=int, default=100, help="test images to certify")
    parser.add_argument("--modes", nargs="+", help="to certify; default: all")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument(
        "--samples", type=int, default=100, help="of incremental certification of test images"
    )
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
