"""``quantizable search bits|sensitivity|certify CHECKPOINT``: bits per layer, certified robustness."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from quantizable.bits import ModeLike
from quantizable.certify.certification import Certification, average_certified_radius, certified_accuracy
from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import Smoothing
from quantizable.data import ImageDataModule
from quantizable.data.choice import trained_data, validation_loader
from quantizable.network import Assignment, QuantizableNetwork
from quantizable.report.files import write_json
from quantizable.search.costs import Cost, bops_cost, bytes_cost, latency_cost
from quantizable.search.evolution import check_installed
from quantizable.search.front import print_outcomes, write_front
from quantizable.search.methods import METHODS
from quantizable.search.problem import Problem, solve
from quantizable.search.scoring import Scorer
from quantizable.search.sensitivity import print_sensitivity, sensitivity, write_sensitivity
from quantizable.search.space import Space, parse_budget
from quantizable.storage.assignment import SavedAssignment, add_modes, noisy_inputs, write_assignment
from quantizable.storage.digests import digest_network, digest_tensors
from quantizable.storage.load import load
from quantizable.storage.selection import choose
from quantizable.storage.signature import example_inputs

RADII = (0.0, 0.25, 0.5, 0.75)
# searches choose by other noise than certify certifies with: its bounds must not depend on what they bound
SEARCH_SEED = 2**31


class Setting:
    """The network, its data and the output folder, checked before anything long begins."""

    def __init__(self, args: argparse.Namespace, test: bool) -> None:
        self.network: QuantizableNetwork = load(args.checkpoint)
        self.data = trained_data(self.network, args.data)
        self.output: Path = args.output or args.checkpoint.parent / "search"
        self.test, self.count = test, args.images

    def images(self) -> tuple[Tensor, Tensor]:
        """Evenly spread images ``[N, C, H, W]`` and labels ``[N]`` of the test or the validation set."""
        self.data.prepare_test_data() if self.test else self.data.prepare_data()
        self.data.setup("test" if self.test else "fit")
        loader = self.data.test_dataloader() if self.test else validation_loader(self.network, self.data)
        spread = torch.linspace(0, loader.size - 1, min(self.count, loader.size)).round().long()
        images, labels, first = [], [], 0
        for x, y in loader:
            own = spread[(spread >= first) & (spread < first + len(x))] - first
            images.append(x[own])
            labels.append(y[own])
            first += len(x)
        return torch.cat(images), torch.cat(labels)

    def example(self) -> Any:
        """One input of the data."""
        data = self.data
        if isinstance(data, ImageDataModule):
            return torch.zeros(1, data.in_chans, data.image_size, data.image_size)
        return example_inputs(self.network, 1)

    @property
    def std(self) -> tuple[float, ...]:
        """Of the images, per channel; ``ValueError`` for words, to which no noise is added."""
        if not isinstance(self.data, ImageDataModule):
            raise ValueError("randomized smoothing adds noise to images, and this network reads words")
        return tuple(self.data.std)

    def training_inputs(self, batches: int, noise: float = 0.0) -> list[Tensor]:
        """The first training batches of the data module's seed, with Gaussian noise of that sigma."""
        if batches < 0:
            raise ValueError(f"--norm-batches is {batches}; it is 0 or more")
        inputs = islice(self.data.train_dataloader(), batches) if batches else ()
        return list(noisy_inputs(inputs, noise, self.std)) if noise else [x for x, _ in inputs]

    def smoothing(self, args: argparse.Namespace, first_seed: int = 0) -> Smoothing:
        """The smoothing that the options ask for, in the units of the data."""
        if args.seed < 0:
            raise ValueError(f"--seed is {args.seed}; it is at least 0")
        seed = first_seed + args.seed
        return Smoothing(args.sigma, args.n, args.n0, args.alpha, self.std, seed)


def run_bits(args: argparse.Namespace) -> int:
    """Search, print and write the front, the picture, and the best assignment of each method and budget."""
    methods = [name.strip() for name in args.methods.split(",")]
    if "evolution" in methods:
        check_installed()
    setting = Setting(args, test=False)
    network = setting.network
    space = Space.of(network)
    cost = make_cost(args.cost, network, setting.example(), args.latency_table)
    for mode in space.modes:  # a table may lack some
        cost.total(space.layer_modes(space.uniform(mode)))
    texts = [text.strip() for text in args.budget.split(",")]
    budgets = {text: parse_budget(text, space, cost) for text in texts}
    incremental = None
    if args.objective == "acr":
        incremental = Incremental(setting.smoothing(args, SEARCH_SEED), args.samples)
    if args.norm_batches < 1 and (lacking := set(space.modes) - set(network.modes)):
        names = ", ".join(mode.name for mode in sorted(lacking))
        raise ValueError(f"modes {names} have no norms of their own yet: give --norm-batches 1 or more")
    images, labels = setting.images()
    noise = 0.0 if incremental is None else args.sigma  # what it will run on is what its norms are fitted to
    inputs = setting.training_inputs(args.norm_batches, noise)
    add_modes(network, space.modes)
    scorer = Scorer(
        network,
        images,
        labels,
        setting.output,
        inputs,
        incremental=incremental,
        robust_images=args.robust_images,
    )
    outcomes = []
    for text, budget in budgets.items():
        for name in methods:
            problem = Problem(space, cost, budget, scorer, args.objective, args.evaluations, args.seed)
            outcome = solve(name, METHODS[name], problem)
            outcomes.append(outcome)
            about = {"method": name, "cost": cost.name, "of": outcome.best.cost, **outcome.best.score}
            bits = space.assignment(outcome.best.genome)
            saved = SavedAssignment(bits, args.norm_batches, noise, about)
            write_assignment(setting.output / f"{name}-{text}.yaml", network, saved)
            found = f"{args.objective} {outcome.best.score[args.objective]:.4f}"
            print(f"{text}, {name}: {found}, {outcome.seconds:.0f} s", flush=True)
            write_front(setting.output, outcomes, cost, args.objective)
    print_outcomes(outcomes, cost, args.objective)
    asked = sum(len(outcome.trials) for outcome in outcomes)
    print(f"{asked} evaluations, {scorer.measured} of them measured now; the others were known already")
    print(f"kept in {setting.output}: front.csv, front.png and the best assignments, METHOD-BUDGET.yaml")
    return 0


def make_cost(name: str, network: QuantizableNetwork, example: Any, table: Path | None) -> Cost:
    """The cost of that name; latency has a table."""
    if name == "latency":
        assert table is not None, "the command asks for it"
        return latency_cost(table, network)
    return bops_cost(network, example) if name == "bops" else bytes_cost(network)


def run_sensitivity(args: argparse.Namespace) -> int:
    """Measure, print and write the sensitivity of each layer in the network's own modes."""
    setting = Setting(args, test=False)
    space = Space.of(setting.network)
    images, labels = setting.images()
    inputs = setting.training_inputs(args.norm_batches)
    scorer = Scorer(setting.network, images, labels, setting.output, inputs)
    held = [m for m in setting.network.modes if m in space.modes]
    rows = sensitivity(scorer, space, held)
    print_sensitivity(rows)
    write_sensitivity(setting.output, rows)
    if others := [m.name for m in setting.network.modes if m not in held and not m.is_float]:
        print(f"left out, as a search does not choose them: mode {', '.join(others)}")
    print(f"kept in {setting.output}: sensitivity.csv, sensitivity.png")
    return 0


def run_certify(args: argparse.Namespace) -> int:
    """Certify test images in each mode, or in an assignment; print and write ACR and certified accuracies."""
    setting = Setting(args, test=True)
    network, smoothing = setting.network, setting.smoothing(args)
    incremental = None if args.first is None else Incremental(smoothing, args.samples)
    first_mode = None if args.first is None else network.check_mode(args.first)
    chosen = choose(args.bits, network, lambda: setting.data)
    images, labels = setting.images()
    seen = digest_tensors([images, labels])

    def certification(name: str, one: QuantizableNetwork, bits: Assignment, **more: object) -> Certification:
        # the network's digest holds the norms that were fitted to an assignment, too
        same = {"network": digest_network(one), "images": seen}
        settings = same | {"bits": {k: str(v) for k, v in _by_layer(bits).items()}} | more
        return Certification(setting.output, name, smoothing, settings)

    # all are opened before the first is run: files of other settings are refused before any long work
    first, runs = None, []
    if first_mode is not None:
        first = certification(f"certified-{first_mode.name}", network, first_mode)
    for one in chosen:
        if first is None:
            runs.append(certification(f"certified-{one.name}", one.network, one.bits))
        else:
            name, more = f"from-{args.first}-{one.name}", {"from": args.first, "samples": args.samples}
            runs.append(certification(name, one.network, one.bits, **more))
    if first is not None and first_mode is not None:
        with network.at_bits(first_mode):
            first.run(network, images, labels)
    summary = {}
    for one, run in zip(chosen, runs, strict=True):
        with one.network.at_bits(one.bits):
            if incremental is None or first is None:
                results = run.run(one.network, images, labels)
            else:
                results = run.fill(partial(incremental.certify_like, one.network, first), images, labels)
        summary[one.name] = {
            "acr": average_certified_radius(results),
            "certified_accuracy": {str(r): certified_accuracy(results, r) for r in RADII},
            "samples_per_image": sum(r.certificate.samples for r in results) / len(results),
            "seconds": sum(r.seconds for r in results),
            "failure_probability": smoothing.alpha if incremental is None else incremental.failure,
        }
    _print_certified(summary, smoothing)
    about: dict[str, object] = {
        "sigma": smoothing.sigma,
        "n": smoothing.n,
        "n0": smoothing.n0,
        "alpha": smoothing.alpha,
    }
    about |= {"seed": args.seed, "images": len(images), "digest": seen, "network": digest_network(network)}
    _add_to(setting.output / "certified.json", about, summary)
    return 0


def _add_to(path: Path, about: dict[str, object], summary: dict[str, dict]) -> None:
    """Write the summary, with the modes that the file holds of the same settings already."""
    try:
        held = json.loads(path.read_text())
        kept = held.pop("bits")
    except (OSError, ValueError, AttributeError, KeyError):
        held, kept = {}, {}
    write_json(path, about | {"bits": (kept if held == about else {}) | summary})


def _by_layer(bits: Assignment) -> Mapping[str, ModeLike]:
    return bits if isinstance(bits, Mapping) else {"*": bits}


def _print_certified(summary: dict, smoothing: Smoothing) -> None:
    columns = ["bits", "ACR", *(f"radius {r:g}, %" for r in RADII), "samples per image", "seconds"]
    table = Table(*columns, title=f"certified accuracy, sigma {smoothing.sigma:g}, n {smoothing.n}")
    for name, row in summary.items():
        shares = [f"{100 * share:.1f}" for share in row["certified_accuracy"].values()]
        table.add_row(
            name, f"{row['acr']:.4f}", *shares, f"{row['samples_per_image']:.0f}", f"{row['seconds']:.1f}"
        )
    Console().print(table)
