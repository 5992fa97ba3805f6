"""``quantizable search bits|sensitivity|certify CHECKPOINT``: bits per layer, certified robustness."""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from quantizable.certify.incremental import Incremental
from quantizable.interface.words import listed
from quantizable.search.budget import make_budget
from quantizable.search.costs import (
    Cost,
    activation_bits_cost,
    bops_cost,
    bytes_cost,
    latency_cost,
    weight_bits_cost,
)
from quantizable.search.evolution import check_installed
from quantizable.search.front import print_outcomes, write_front
from quantizable.search.measures import Measure, proved_difference
from quantizable.search.methods import METHODS
from quantizable.search.problem import Problem, solve
from quantizable.search.scoring import CERTIFIED, Scorer
from quantizable.search.sensitivity import print_sensitivity, sensitivity, write_sensitivity
from quantizable.search.setting import Setting
from quantizable.search.space import Space
from quantizable.storage.assignment import SavedAssignment, add_modes, noisy_inputs, write_assignment

# searches choose by other noise than certify certifies with: its bounds must not depend on what they bound
SEARCH_SEED = 2**31


def run_bits(args: argparse.Namespace) -> int:
    """Search, print and write the front, the picture, and the best assignment of each method and budget."""
    methods = listed(args.methods)
    if "evolution" in methods:
        check_installed()
    setting = Setting(args, test=False)
    network = setting.network
    space = Space.of(network, args.weights, args.activations)
    costs = cache(partial(make_cost, space=space, setting=setting, table=args.latency_table))
    budgets = [make_budget(named, space, costs) for named in args.budgets]
    for cost in {limit.cost.name: limit.cost for budget in budgets for limit in budget.limits}.values():
        for mode in space.modes:  # a table may lack some
            cost.total(space.layer_modes(space.uniform(mode)))
    incremental = None
    if args.objective in CERTIFIED:
        incremental = Incremental(setting.smoothing(args, SEARCH_SEED), args.samples)
    if args.norm_batches < 1 and (lacking := set(space.modes) - set(network.modes)):
        names = ", ".join(mode.name for mode in sorted(lacking))
        raise ValueError(f"modes {names} have no norms of their own yet: give --norm-batches 1 or more")
    images, labels = setting.images()
    # what it will run on is what its norms are fitted to
    noise = args.noise if incremental is None else args.sigma
    if args.noise:
        (images,) = noisy_inputs([images], noise, setting.std)
    inputs = setting.training_inputs(args.norm_batches, noise)
    measures = measures_of(args, setting, images)
    add_modes(network, space.modes)
    scorer = Scorer(
        network,
        images,
        labels,
        setting.output,
        inputs,
        incremental=incremental,
        robust_images=args.robust_images,
        radius=0.25 if args.radius is None else args.radius,
        measures=measures,
    )
    outcomes = []
    for budget in budgets:
        for name in methods:
            problem = Problem(
                space, budget, scorer, args.objective, args.evaluations, args.seed, args.seconds
            )
            outcome = solve(name, METHODS[name], problem)
            outcomes.append(outcome)
            about = {"method": name, "budget": str(budget), **outcome.best.costs, **outcome.best.score}
            text = str(budget).replace("=", "-").replace(" ", "-")
            bits = space.assignment(outcome.best.genome)
            saved = SavedAssignment(bits, args.norm_batches, noise, about)
            write_assignment(setting.output / f"{name}-{text}.yaml", network, saved)
            found = f"{args.objective} {outcome.best.score[args.objective]:.4f}"
            print(f"{budget}, {name}: {found}, {outcome.seconds:.0f} s", flush=True)
            write_front(setting.output, outcomes, args.objective)
    print_outcomes(outcomes, args.objective)
    asked = sum(len(outcome.trials) for outcome in outcomes)
    print(f"{asked} evaluations, {scorer.measured} of them measured now; the others were known already")
    print(f"kept in {setting.output}: front.csv, front.png and the best assignments, METHOD-BUDGET.yaml")
    return 0


def measures_of(args: argparse.Namespace, setting: Setting, images: Tensor) -> list[Measure]:
    """What the objective needs beside the usual scores."""
    if args.objective == "proved":
        return [proved_difference(setting.network, images, 0.01 if args.radius is None else args.radius)]
    if args.objective == "shifts":  # the command gives it: it is of a room above this one
        found: Measure = args.shifts(setting.network, images, setting.statistics)
        return [found]
    return []


def make_cost(name: str, space: Space, setting: Setting, table: Path | None) -> Cost:
    """The cost of that name; latency has a table."""
    network = setting.network
    if name == "latency":
        assert table is not None, "the command asks for it"
        return latency_cost(table, network)
    if name == "activation_bits":
        return activation_bits_cost(network, space.layers, setting.example())
    if name == "weight_bits":
        return weight_bits_cost(network, space.layers)
    return bops_cost(network, setting.example()) if name == "bops" else bytes_cost(network)


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
