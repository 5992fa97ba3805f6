"""What a recipe keeps beside the files of its commands: its own words, what was chosen, table, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from quantizable.interface.choices import FOUND, UNIFORM
from quantizable.measure.cost import LayerCost, layer_costs, mode_costs
from quantizable.report.files import make_folder, write_json, write_text
from quantizable.report.plots import save_figure
from quantizable.search.scoring import value_of
from quantizable.storage.digests import digest_network
from quantizable.storage.load import load
from quantizable.training.run_names import numbered


def check_same_recipe(
    folder: Path, checkpoint: Path, recipe: Mapping[str, Any], given: Sequence[str]
) -> None:
    """Write the recipe beside its results; ``ValueError`` if the folder holds those of another one.

    A recipe without results was refused, for a word that it has; another may have its folder.
    """
    words = {"recipe": dict(recipe), "settings": list(given), "network": digest_network(load(checkpoint))}
    path = folder / "recipe.json"
    if path.is_file() and any(file.is_file() and file != path for file in folder.rglob("*")):
        held = json.loads(path.read_text())
        for key in words:
            if held.get(key) != words[key]:
                raise ValueError(f"{folder} holds another recipe (other {key}); give --output another folder")
        return
    make_folder(folder)
    write_json(path, words)


def choose_best(folder: Path, objective: str) -> None:
    """Copy the best assignment of the searches in ``folder/search``, and the best uniform one, by score.

    They become ``uniform.yaml`` and ``found.yaml``, which is written last: the search is over.
    """
    held = {path: yaml.safe_load(path.read_text()) for path in sorted((folder / "search").glob("*.yaml"))}
    uniform = [path for path, one in held.items() if one["about"]["method"] == UNIFORM]
    others = [path for path in held if path not in uniform]
    for name, paths in ((UNIFORM, uniform), (FOUND, others or uniform)):
        best = max(paths, key=lambda path: value_of(held[path]["about"], objective))
        write_text(folder / f"{name}.yaml", best.read_text())


def show(folder: Path, checkpoint: Path, names: Sequence[str], cost: str) -> None:
    """Print the table; write ``summary.json``, ``pareto.png`` and ``bits.png``.

    Args:
        folder: of the recipe.
        checkpoint: that it started from.
        names: of the assignments that were fine-tuned, ``found`` first.
        cost: what was limited.
    """
    network = load(checkpoint)
    layers = layer_costs(network)
    before = results(folder / "before")["modes"]
    rows = {
        total.mode: {"bytes": total.weight_bytes, "bops": total.bops} for total in mode_costs(network, layers)
    }
    for mode, values in before.items():
        if mode in rows:
            rows[mode] |= {"before": values["top1"]}
    own: dict[str, list[LayerCost]] = {}
    for name in names:
        run = finished(folder, name)
        tuned = load(run / "best.ckpt")
        own[name] = layer_costs(tuned, modes=[name])
        (total,) = mode_costs(tuned, own[name])
        rows[name] = {
            "bytes": total.weight_bytes,
            "bops": total.bops,
            "before": before[name]["top1"],
            "after": results(run)["modes"][name]["top1"],
        }
    write_json(folder / "summary.json", {"modes": rows, "layers": {n: widths(r) for n, r in own.items()}})
    table = Table("bits", "bytes of weights", "bit operations", "top-1 %", "fine-tuned")
    for name, row in rows.items():
        shares = (f"{100 * row[key]:.2f}" if key in row else "" for key in ("before", "after"))
        table.add_row(name, f"{row['bytes']:,}", f"{row['bops']:,}", *shares)
    Console().print(table)
    plot_pareto(folder / "pareto.png", rows, "bytes" if cost in ("bytes", "weight_bits") else "bops")
    plot_bits(folder / "bits.png", own)
    print(
        f"kept in {folder}: {', '.join(f'{name}.yaml' for name in names)}, summary.json, pareto.png, bits.png"
    )


def finished(folder: Path, name: str) -> Path:
    """The run of that name, or its repetition, that came to its end; ``FileNotFoundError`` if none did."""
    for run in numbered(folder / name):
        if (run / "results.json").is_file():
            return run
    raise FileNotFoundError(f"no run {name} in {folder} has come to its end")


def results(folder: Path) -> Any:
    """What a run or an evaluation measured."""
    return json.loads((folder / "results.json").read_text())


def widths(rows: Sequence[LayerCost]) -> dict[str, list[int]]:
    """Bits of weights and inputs, by layer."""
    return {row.layer: [row.weight_bits, row.input_bits] for row in rows}


def plot_pareto(path: Path, rows: Mapping[str, Mapping[str, float]], cost: str) -> None:
    """Accuracy against a cost: the network's modes as a line, assignments before and after as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    modes = {
        name: row for name, row in rows.items() if "after" not in row and "before" in row and name != "32"
    }
    line = sorted((row[cost], 100 * row["before"], name) for name, row in modes.items())
    axes.plot([x for x, _, _ in line], [y for _, y, _ in line], "o-", color="grey", label="uniform bits")
    for x, y, name in line:
        axes.annotate(name, (x, y), (4, -10), textcoords="offset points", color="grey")
    for number, (name, row) in enumerate((n, r) for n, r in rows.items() if "after" in r):
        color = f"C{number}"
        axes.plot(row[cost], 100 * row["before"], "o", color=color, mfc="none", label=f"{name}, as chosen")
        axes.plot(row[cost], 100 * row["after"], "o", color=color, label=f"{name}, fine-tuned")
    axes.set_xlabel("bytes of weights" if cost == "bytes" else "bit operations per image")
    axes.set_ylabel("top-1 accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def plot_bits(path: Path, layers: Mapping[str, Sequence[LayerCost]]) -> None:
    """Bits of each layer's weights and inputs as bars, one row of them for each assignment."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    count = max(len(rows) for rows in layers.values())
    figure = Figure(figsize=(max(6.0, 0.3 * count), 2.2 * len(layers) + 1), layout="constrained")
    for axes, (name, rows) in zip(
        figure.subplots(len(layers), 1, squeeze=False)[:, 0], layers.items(), strict=True
    ):
        places = range(len(rows))
        axes.bar([x - 0.2 for x in places], [row.weight_bits for row in rows], 0.4, label="weights")
        axes.bar([x + 0.2 for x in places], [row.input_bits for row in rows], 0.4, label="inputs")
        axes.set_xticks(places, [row.layer for row in rows], rotation=90, fontsize=7)
        axes.set_xlim(-0.8, len(rows) - 0.2)
        axes.yaxis.set_major_locator(MultipleLocator(2))
        axes.set_ylabel("bits")
        axes.set_title(name)
        axes.grid(alpha=0.3, axis="y")
        axes.legend(ncols=2, fontsize="small", loc="lower right", bbox_to_anchor=(1, 1))  # above the bars
    save_figure(figure, path)
