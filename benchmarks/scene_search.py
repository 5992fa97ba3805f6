"""DiverGet against DiffChaser on networks for hyperspectral scenes: success per network, mode and searcher.

    python benchmarks/scene_search.py --file Samson.mat --seeds 0 1 2

Each seed trains each network in modes 2, 4, 8 and 32 (unless it is in ``--output``) and draws test patches
on which a mode agrees with mode 32. Every searcher starts from them, with the same limit (a PSNR of at least
20 dB) and the same budget of queries. The JSON is written after every search, and a run that was cut off goes
on where it was. Seeds come one after the other: a run that is cut off has whole seeds.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from assess_tables import Row, markdown
from runs import finished, trained
from steps import machine

from quantizable import load
from quantizable.assess.callables import mode_models
from quantizable.assess.images import images_of
from quantizable.assess.relations import SPECTRAL
from quantizable.assess.searchers.comparison import agreeing, compare_searchers
from quantizable.assess.searchers.constraint import Psnr
from quantizable.assess.searchers.diffchaser import DiffChaser
from quantizable.assess.searchers.diverget import DiverGet
from quantizable.assess.searchers.hunt import Searcher
from quantizable.assess.searchers.random_noise import RandomRelations
from quantizable.assess.study import pairs_of
from quantizable.data.choice import make_datamodule
from quantizable.report.files import write_json

SEARCHERS: tuple[Searcher, ...] = (
    DiffChaser("basic"),
    RandomRelations(SPECTRAL),
    DiverGet(SPECTRAL, "pso"),
    DiverGet(SPECTRAL, "genetic"),
)
LIMIT = Psnr(20)


def run_of(args: argparse.Namespace, name: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its ``results.json``; it is trained if need be."""
    words = ["data=samson", f"data.file={args.file}", f"model={name}", f"seed={seed}", *args.words]
    results = trained(f"scene_{name}_{seed}", words, args.output)
    folder = finished(f"scene_{name}_{seed}", args.output)
    assert folder is not None
    return folder, results


def search(
    args: argparse.Namespace, folder: Path, seed: int, rows: list[dict[str, Any]], keep: Callable[[], None]
) -> None:
    """Add a row for each pair and searcher that has none."""
    done = {(row["pair"], row["searcher"]) for row in rows}
    network = load(folder / "best.ckpt")
    datamodule = make_datamodule([f"data.file={args.file}"], network.info)
    images = images_of(datamodule).sample(3 * args.starts, seed)
    for pair in pairs_of(mode_models(network)):
        missing = [one for one in SEARCHERS if (pair.name, one.name) not in done]
        starts = agreeing(pair, images, args.starts)
        for row, _ in compare_searchers(pair, starts, missing, LIMIT, args.budget, seed, tell=print):
            if not row.complete:
                raise SystemExit("interrupted; the same command goes on")
            rows.append(asdict(row))
            keep()


def spread(values: list[float]) -> str:
    """Mean (lowest to highest) in percent."""
    return f"{100 * fmean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def accuracies(networks: dict[str, Any]) -> Iterator[Row]:
    """Means over the seeds that are trained, with their range."""
    modes = list(next(iter(next(iter(networks.values())).values()))["accuracy"])
    yield ["network", "seeds", *(f"mode {mode}" for mode in modes)]
    for name, seeds in networks.items():
        values = ([one["accuracy"][mode] for one in seeds.values()] for mode in modes)
        yield [name, str(len(seeds)), *map(spread, values)]


def successes(networks: dict[str, Any]) -> Iterator[Row]:
    """Means over the seeds that are searched with every searcher, with their range."""
    yield ["network", "pair", "seeds", *(one.name for one in SEARCHERS)]
    for name, seeds in networks.items():
        found: dict[str, list[list[float]]] = {}
        for one in seeds.values():
            by_pair: dict[str, dict[str, float]] = {}
            for row in one["search"]:
                by_pair.setdefault(row["pair"], {})[row["searcher"]] = row["success"][0]
            for pair, rates in by_pair.items():
                if len(rates) == len(SEARCHERS):
                    found.setdefault(pair, []).append([rates[searcher.name] for searcher in SEARCHERS])
        for pair, rows in found.items():
            yield [name, pair, str(len(rows)), *(spread(list(values)) for values in zip(*rows, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="further overrides of conf/train.yaml, for all runs alike")
    parser.add_argument("--file", type=Path, required=True, help="Samson.mat")
    parser.add_argument("--networks", nargs="+", default=["patch_cnn", "hybrid_sn", "ssrn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-once", action="store_true", help="with the first seed; others search anew")
    parser.add_argument("--starts", type=int, default=64, help="patches that a search starts from")
    parser.add_argument("--budget", type=int, default=60, help="queries per patch")
    parser.add_argument("--output", type=Path, default=Path("checkpoints"), help="where runs are kept")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/scene_search.json"))
    args = parser.parse_args()
    settings = {key: getattr(args, key) for key in ("words", "train_once", "starts", "budget")}
    settings["limit"] = str(LIMIT)
    kept: dict[str, Any] = {"settings": settings, "networks": {}}
    if args.json.is_file():
        kept = json.loads(args.json.read_text())
    if kept["settings"] != settings:
        parser.error(f"{args.json} was measured with {kept['settings']}; give another --json")

    def keep() -> None:
        write_json(args.json, {**kept, "machine": machine("cpu")})

    for seed in args.seeds:
        for name in args.networks:
            folder, results = run_of(args, name, args.seeds[0] if args.train_once else seed)
            one = kept["networks"].setdefault(name, {}).setdefault(str(seed), {"search": []})
            one["accuracy"] = {mode: row["top1"] for mode, row in results["modes"].items()}
            one["train_seconds"] = results["train_seconds"]
            keep()
            search(args, folder, seed, one["search"], keep)
    print(markdown(accuracies(kept["networks"])))
    print(markdown(successes(kept["networks"])))


if __name__ == "__main__":
    main()
