"""Certified radii of found bits within a share of the float network's bit operations: docs/results/search.md.

    python benchmarks/certified.py --checkpoint checkpoints/layerwise_sigma025/best.ckpt --root data \\
        --output benchmarks/results/certified --shares 1.5 3 6

A budget is a share of the float network's bit operations, of which each multiplication has 32 x 32. In each:

found      the best by certified radius (ACR, incremental) that integer programming and evolution found; with
           ``--objective kl`` the best by KL divergence from mode 32 on noisy images
uniform    the best by the same score of all pairs of one width for weights and one for activations
accuracy   the best by accuracy that DDPG found, as HAQ does
float      the checkpoint's mode 32

All but float are then trained alone for as many batches, with the same images, noise, learning rate and
teacher. ``float trained`` got the same training, too. Each is exported and certified on the engine, on test
images that none of the searches saw. Differences are of the same images, with 95 % intervals over these.

All is kept in the output folder: a run that was cut off goes on where it was. ``--show FILE`` prints the
table of what a run has kept, and runs nothing.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import runs
from found import done
from scipy.stats import ttest_rel

import quantizable
from quantizable.certify.certification import read_row
from quantizable.cli.finetune import settings
from quantizable.measure.cost import layer_costs, mode_costs
from quantizable.report.files import write_json
from quantizable.search.recipe import choose_best, finished, results

FLOAT, TRAINED = "float", "float trained"
ROWS = ("found", "uniform", "accuracy")
RADIUS = 0.25


def searched(args: argparse.Namespace, share: str, budget: int) -> dict[str, Path]:
    """The assignment files of a budget by row: found, uniform, accuracy."""
    folder = args.output / share
    words = ["search", "bits", str(args.checkpoint), f"data.root={args.root}", "--budget", f"bops={budget}"]
    words += ["--sigma", str(args.sigma), *args.search]
    if not (folder / "found.yaml").is_file():
        robust = ["--objective", args.objective, "--methods", "uniform,integer,evolution"]
        robust += [] if args.objective == "acr" else ["--noise", str(args.sigma)]
        done([*words, *robust, "--output", str(folder / "search")])
        choose_best(folder, args.objective)
    if "accuracy" in args.rows and not (folder / "accuracy.yaml").is_file():
        done([*words, "--methods", "reinforcement", "--output", str(folder / "haq")])
        [file] = (folder / "haq").glob("reinforcement-*.yaml")
        shutil.copy(file, folder / "accuracy.yaml")
    return {name: folder / f"{name}.yaml" for name in ROWS if name in args.rows}


def trained(args: argparse.Namespace, folder: Path, row: str, named: str, seed: int) -> Path:
    """The checkpoint of an assignment file, or of a mode, after training alone."""
    given = [f"data.root={args.root}", f"seed={seed}", "schedule.epochs=1", "schedule.optimizer.lr=0.01"]
    given += [f"train.noise_sigma={args.sigma}", f"train.teacher={args.checkpoint}", *args.train]
    words, run = settings(named, args.checkpoint, given, alone=True), f"{row}_{seed}"
    runs.trained(run, [word for word in words if not word.startswith("run=")], folder)
    return finished(folder, run) / "best.ckpt"


def certified(args: argparse.Namespace, folder: Path, checkpoint: Path, bits: str) -> list[float]:
    """Of each image the certified radius; 0 where the prediction is wrong."""
    words = ["search", "certify", str(checkpoint), f"data.root={args.root}", "--bits", bits]
    words += ["--engine", args.engine, "--images", str(args.images), "--n", str(args.n)]
    done([*words, "--sigma", str(args.sigma), "--output", str(folder)])
    ran_by = "" if args.engine == "torch" else f"-{args.engine}"
    lines = (folder / f"certified-{bits}{ran_by}.jsonl").read_text().splitlines()
    by_image = {one.image: one for one in map(read_row, map(json.loads, lines[1:]))}
    return [round(one.certified_radius, 5) for _, one in sorted(by_image.items())]


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each assignment, as soon as it is certified: budgets one after another, float first."""
    network = quantizable.load(args.checkpoint)
    costs = {one.mode: one.bops for one in mode_costs(network, layer_costs(network))}

    def row(share: str, name: str, seed: int | None, checkpoint: Path, bits: str) -> dict[str, Any]:
        folder = args.output / "certified" / f"{share}_{name.replace(' ', '_')}_{seed}"
        radii = certified(args, folder, checkpoint, bits)
        tuned = quantizable.load(checkpoint)
        [cost] = mode_costs(tuned, layer_costs(tuned, modes=[bits]))
        about = {"share": share, "name": name, "seed": seed, "bops": cost.bops, "radii": radii}
        return about | ({} if seed is None else {"top1": results(checkpoint.parent)["modes"][bits]["top1"]})

    yield row("100", FLOAT, None, args.checkpoint, "32")
    for seed in args.seeds:
        for share in args.shares:
            files = searched(args, share, int(float(share) / 100 * costs["32"]))
            for name, file in files.items():
                checkpoint = trained(args, args.output / share, name, str(file), seed)
                yield row(share, name, seed, checkpoint, name)
        if FLOAT in args.rows:
            checkpoint = trained(args, args.output / "100", "float", "32", seed)
            yield row("100", TRAINED, seed, checkpoint, "32")


def difference(radii: list[float], others: list[float]) -> str:
    """Of two means over the same images, with its 95 % interval over images (Student's t)."""
    low, high = ttest_rel(radii, others).confidence_interval() if radii != others else (0.0, 0.0)
    return f"{fmean(radii) - fmean(others):+.4f} ({low:+.4f} to {high:+.4f})"


def table(rows: list[dict[str, Any]]) -> None:
    """Print what was measured, as Markdown."""
    measures = "bit operations, G | clean top-1, % | ACR | R >= 0.25, % | of float's ACR, %"
    print(f"| budget, % | bits | seed | {measures} | found above |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    held = {(row["share"], row["name"], row["seed"]): row["radii"] for row in rows}
    whole = fmean(rows[0]["radii"]) or math.nan
    for one in rows:
        share, name, seed, radii = one["share"], one["name"], one["seed"], one["radii"]
        found = held.get((share, "found", seed))
        above = difference(found, radii) if found and name != "found" else ""
        cells = [share, name, "" if seed is None else str(seed), f"{one['bops'] / 1e9:.3f}"]
        cells += [f"{100 * one['top1']:.2f}" if "top1" in one else "", f"{fmean(radii):.4f}"]
        cells += [
            f"{100 * fmean(radius >= RADIUS for radius in radii):.1f}",
            f"{100 * fmean(radii) / whole:.1f}",
        ]
        print("|", " | ".join([*cells, above]), "|")


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path)
    what.add_argument("--show", type=Path, metavar="FILE", help="certified.json of a run")
    parser.add_argument("--root", default="data", help="of the data")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/certified"))
    parser.add_argument(
        "--shares",
        nargs="+",
        default=["1.5", "3", "6"],
        help="budgets in %% of float's bit operations",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, FLOAT], default=[*ROWS, FLOAT])
    parser.add_argument("--objective", default="acr", help="of found and uniform: acr, or kl under noise")
    parser.add_argument("--engine", default="openvino", help="openvino, onnxruntime, or torch")
    parser.add_argument("--images", type=int, default=200, help="to certify")
    parser.add_argument("--n", type=int, default=2000, help="noisy copies of each")
    parser.add_argument(
        "--search", nargs=argparse.REMAINDER, default=[], help="last: options of quantizable search bits"
    )
    parser.add_argument(
        "--train", nargs="*", default=[], help="settings of quantizable finetune, as trainer=cpu"
    )
    args = parser.parse_args()
    if args.show:
        return table(json.loads(args.show.read_text())["rows"])
    keys = ("images", "n", "sigma", "engine", "objective")
    about: dict[str, Any] = {key: getattr(args, key) for key in keys}
    about |= {"search": args.search, "train": args.train, "checkpoint": args.checkpoint.parent.name}
    held = args.output / "about.json"
    if held.is_file() and json.loads(held.read_text()) != about:
        parser.error(f"{args.output} holds a run with other options; give another --output")
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(held, about)
    rows: list[dict[str, Any]] = []
    for row in measured(args):
        rows.append(row)
        write_json(args.output / "certified.json", about | {"rows": rows})
        table(rows)


if __name__ == "__main__":
    run()
