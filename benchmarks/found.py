"""What a search finds against uniform bits, before and after the same fine-tuning: docs/results/search.md.

    python benchmarks/found.py --checkpoint checkpoints/cifar10_resnet20/best.ckpt --root data \\
        --output benchmarks/results/found --settings mean_bits bytes_a4 --seeds 0 1 2 --epochs 3

Each setting is a file of conf/search. A search chooses by held-out training images; the test set is asked
once for each trained network. At a budget between two widths the line to beat goes through the uniform bits
below and above it, which get the same training (learning rates, images, teacher, seeds). With several seeds
the difference has a 95 % interval (Student's t over seeds).

All is kept in the output folder: a run that was cut off goes on where it was. ``--show FILE...`` prints the
tables of what such runs have kept, and runs nothing.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from quantizable.cli import main
from quantizable.cli.recipe import composed
from quantizable.report.files import write_json

WHEN = ("before", "after")  # the fine-tuning


def trained(args: argparse.Namespace, setting: str, seed: int) -> dict[str, Any]:
    """One recipe with its two fine-tunings, and the uniform bits above the budget: costs and accuracies."""
    folder = args.output / setting / str(seed)
    words = [f"search={setting}", f"seed={seed}", f"search.bits.seed={seed}", "search.export=null"]
    words += [f"data.root={args.root}", f"search.finetune.schedule.epochs={args.epochs}", *args.words]
    recipe = composed([word for word in words if word.startswith(("search=", "search."))])
    budget = float(str(recipe["bits"]["budget"]).removesuffix("bit"))  # one that is no such number fails here
    done(["recipe", str(args.checkpoint), *words, "--output", str(folder)])
    found = json.loads((folder / "summary.json").read_text())["modes"]
    rows = {name: found[name] for name in ("found", "uniform")}
    if budget % 1:
        above = [*words, "search.bits.methods=uniform", f"search.bits.budget={math.ceil(budget)}bit"]
        done(
            [
                "recipe",
                str(args.checkpoint),
                *above,
                "search.compare=false",
                "--output",
                str(folder / "above"),
            ]
        )
        rows["above"] = json.loads((folder / "above" / "summary.json").read_text())["modes"]["found"]
    for when in WHEN:
        line = rows["uniform"][when]
        if "above" in rows:
            line += budget % 1 * (rows["above"][when] - line)
        rows["found"][f"above the line {when}"] = rows["found"][when] - line
        rows["found"][f"above uniform {when}"] = rows["found"][when] - rows["uniform"][when]
    return rows


def done(words: list[str]) -> None:
    """A command that must go well."""
    if main(words) != 0:
        raise SystemExit(f"failed: quantizable {' '.join(words)}")


def interval(points: list[float]) -> str:
    """The mean, with its 95 % interval where there are several values."""
    mean = fmean(points)
    if len(points) < 2:
        return f"{mean:+.2f} (one seed)"
    half = t.ppf(0.975, len(points) - 1) * stdev(points) / math.sqrt(len(points))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def above_line_of_operations(rows: dict[str, dict[str, Any]]) -> float | None:
    """Points of what was found above the line between two uniform widths, at its bit operations.

    None where it needs more of them than both: the line ends there.
    """
    low, high, found = rows["uniform"], rows["above"], rows["found"]
    share = (found["bops"] - low["bops"]) / (high["bops"] - low["bops"])
    if share > 1:
        return None
    return 100 * float(found["after"] - low["after"] - share * (high["after"] - low["after"]))


def gains(seeds: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Points of what was found above the line, the uniform bits below and above, the line of operations."""
    cells = [
        interval([100 * rows["found"][f"above {name} after"] for rows in seeds])
        for name in ("the line", "uniform")
    ]
    if "above" not in seeds[0]:
        return [*cells, "", ""]
    cells.append(interval([100 * (rows["found"]["after"] - rows["above"]["after"]) for rows in seeds]))
    by_operations = [above_line_of_operations(rows) for rows in seeds]
    inside = [points for points in by_operations if points is not None]
    return [*cells, interval(inside) if inside == by_operations else "beyond it"]


def table(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print what was measured, as Markdown; gains are after the fine-tuning, in points."""
    names = "above the line | above uniform | above the upper uniform | above the line of bit operations"
    print(f"| setting | bits | bytes | bit operations | chosen, top-1 % | fine-tuned, top-1 % | {names} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for setting, seeds in results.items():
        each = list(seeds.values())
        for name in each[0]:
            rows = [rows[name] for rows in each]
            costs = [f"{fmean(row[key] for row in rows):,.0f}" for key in ("bytes", "bops")]
            row_of(setting, name, costs, rows, gains(each) if name == "found" else [""] * 4)
        if "above" in each[0]:
            line = [
                {when: rows["found"][when] - rows["found"][f"above the line {when}"] for when in WHEN}
                for rows in each
            ]
            row_of(setting, "the line", ["", ""], line, [""] * 4)


def row_of(setting: str, name: str, costs: list[str], seeds: list[dict[str, Any]], gained: list[str]) -> None:
    """Print one row: accuracies of all seeds, before and after, in %."""
    after = ", ".join(f"{100 * row['after']:.2f}" for row in seeds)
    before, mean = (f"{100 * fmean(row[when] for row in seeds):.2f}" for when in WHEN)
    print("|", " | ".join([setting, name, *costs, before, f"{mean} ({after})", *gained]), "|")


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path)
    what.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="found.json of runs")
    parser.add_argument("--root", default="data", help="of the data")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/found"))
    parser.add_argument("--settings", nargs="+", default=["mean_bits", "bytes_a4", "bytes_a8", "bops"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--words", nargs="*", default=[], help="of quantizable recipe, as trainer=cpu")
    args = parser.parse_args()
    for file in args.show or []:
        table(json.loads(file.read_text())["settings"])
    if args.show:
        return
    for setting in args.settings:
        try:
            composed([f"search={setting}"])  # refused before anything is run
        except ValueError as error:
            parser.error(str(error))
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for setting in args.settings:
        for seed in args.seeds:
            results.setdefault(setting, {})[str(seed)] = trained(args, setting, seed)
            about = {"checkpoint": str(args.checkpoint), "epochs": args.epochs, "words": args.words}
            write_json(args.output / "found.json", about | {"settings": results})
            table(results)


if __name__ == "__main__":
    run()
