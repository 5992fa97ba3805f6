"""``quantizable cost CHECKPOINT``: what each mode costs, by layer, and its latency on each engine."""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from quantizable.bits import FLOAT_BITS, BitMode, parse_modes
from quantizable.deploy.export import fits_bytes
from quantizable.deploy.layer_latency import layer_latencies
from quantizable.deploy.layer_report import WITHOUT_VNNI, layer_report
from quantizable.deploy.lowering import lower
from quantizable.deploy.processor import exact_kernels
from quantizable.deploy.session import Session
from quantizable.interface.progress import progress
from quantizable.interface.words import listed
from quantizable.measure.cost import as_rows, layer_costs, mode_costs
from quantizable.measure.coverage import coverage
from quantizable.measure.latency import interleaved
from quantizable.network import QuantizableNetwork
from quantizable.report.charts import wilson
from quantizable.report.files import check_target, make_folder, written_whole
from quantizable.report.plots import save_figure
from quantizable.report.runs import images_measured
from quantizable.storage.load import load
from quantizable.storage.qz import integer_modes, save_qz
from quantizable.storage.signature import example_inputs

ACCURACY = ("top1", "top1_low", "top1_high")  # columns of cost.csv
SAME_KERNELS = (
    "{}: no kernels of fewer than 8 bits, so the time of {} is about that of the highest mode (not measured; "
    "--bits MODE measures one alone; which hardware gains by which mode: docs/deployment.md)"
)


def run(args: argparse.Namespace) -> int:
    """Print the table; write CSV and plot if asked to."""
    engines = listed(args.engine)
    beside = args.checkpoint.with_name("results.json")
    accuracies = read_accuracies(args.results or beside, None if args.results else args.checkpoint)
    if args.layer_latency:
        check_target(args.layer_latency)
    network = load(args.checkpoint)
    modes = asked(network, args.bits)
    if args.output:
        make_folder(args.output)
        check_target(args.output / "cost.csv")
    layers = layer_costs(network, modes=modes)
    rows = as_rows(mode_costs(network, layers))
    integer = [m for m in modes if isinstance(m, str) or (m.weight != FLOAT_BITS and fits_bytes(m))]
    names = [str(mode) for mode in integer]
    saturating = {mode: saturating_layers(network, mode) for mode in progress(names, "counting layers")}
    left = on_the_same_kernels(integer) if engines else []
    latencies = measure(network, [name for name in names if name not in left], engines, args.threads)
    for row in rows:
        row |= {f"{engine}_ms": latencies.get(f"{engine} {row['mode']}") for engine in engines}
        row["float_without_vnni"] = saturating.get(row["mode"])
        row |= accuracies.get(row["mode"], dict.fromkeys(ACCURACY))
    print_rows("per mode", [{key: row[key] for key in row if key not in ACCURACY[1:]} for row in rows])
    if left:
        print(SAME_KERNELS.format(", ".join(engines), ", ".join(left)))
    if args.layers:
        print_rows("per layer", as_rows(layers))
    if args.coverage:
        show_coverage(network, modes)
    if args.output:
        write_csv(args.output / "cost.csv", rows)
        write_csv(args.output / "layers.csv", as_rows(layers))
        plot(args.output / "cost.png", rows, engines)
    if args.layer_latency:
        print(
            "exporting and timing each layer in every pair of widths: minutes, for a deep network", flush=True
        )
        table = layer_latencies(network, None, engines[0], args.threads)
        with written_whole(args.layer_latency) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n")
        print(f"latency of {len(table)} layers kept in {args.layer_latency}")
    return 0


def asked(network: QuantizableNetwork, bits: str | None) -> list[BitMode | str]:
    """What ``--bits`` names: assignments that the network holds, then modes; by default all."""
    if bits is None:
        return [*network.assignments, *network.modes]
    words = [word.strip() for word in bits.split(",")]
    named = [word for word in words if word in network.assignments]
    others = [word for word in words if word not in named]
    return [*named, *(network.check_mode(mode) for mode in (parse_modes(others) if others else []))]


def show_coverage(network: QuantizableNetwork, modes: Sequence[BitMode | str]) -> None:
    """Print what runs at which bits, mode by mode."""
    image = example_inputs(network, 1)
    for mode in modes:
        with network.at_bits(mode):
            print(f"\n{coverage(network, image)}")


def saturating_layers(network: QuantizableNetwork, mode: str) -> int:
    """How many layers run in float on OpenVINO where integer kernels saturate (processors without VNNI)."""
    report = layer_report(lower(network, mode, example_inputs(network, 1)))
    return sum(how.endswith(WITHOUT_VNNI) for how in report.values())


def on_the_same_kernels(modes: Sequence[BitMode | str]) -> list[str]:
    """The names of those modes that engines run by the kernels of the highest one.

    Weights and activations of 8 bits and fewer go through the same 8-bit kernels. Where these saturate, low
    modes need fewer layers in float, and each mode has a time of its own.
    """
    integer = sorted(m for m in modes if isinstance(m, BitMode) and m.activation != FLOAT_BITS)
    return [str(mode) for mode in integer[:-1]] if exact_kernels() else []


def measure(
    network: QuantizableNetwork, modes: list[str], engines: list[str], threads: int
) -> dict[str, float]:
    """Median milliseconds for one image, by ``"engine mode"``; integer modes only."""
    if not engines or not modes:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        uniform = next(mode.name for mode in integer_modes(network))  # a file holds one at least
        save_qz(network, Path(folder) / "model.qz", {*modes, uniform})
        runs = {}
        for engine, mode in progress([*product(engines, modes)], "compiling"):
            session = Session(Path(folder) / "model.qz", engine, mode, threads, batch=1)
            runs[f"{engine} {mode}"] = partial(session, session.zeros(1))
        return interleaved(runs)


def read_accuracies(path: Path, of: Path | None = None) -> dict[str, dict[str, float | None]]:
    """Top-1 accuracy (0 to 1) by mode, from results of training or ``quantizable evaluate``.

    With the ends of its 95 % interval (Wilson), where the results say on how many images.

    Args:
        path: a ``results.json``.
        of: the checkpoint beside which it was looked for: it may not be there, or be of another one.
    """
    if of is None and not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        return {}
    try:
        results: Mapping[str, Any] = json.loads(path.read_text())
        if of is not None and Path(results.get("checkpoint", of)).stem != of.stem:
            return {}
        images = images_measured(results, str(results.get("config", {}).get("data", {}).get("_target_", "")))
        return {mode: _with_ends(values["top1"], images) for mode, values in results["modes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no results.json of this library") from error


def _with_ends(share: float | None, images: int | None) -> dict[str, float | None]:
    low, high = (None, None) if share is None or not images else wilson(share, images)[1:]
    return dict(zip(ACCURACY, (share, low, high), strict=True))


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table, one row per mode or layer."""
    table = Table(*(key.replace("_", "\n") for key in rows[0]), title=title)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    # a narrow terminal, or none, must not cost digits: lines may be longer than it
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    Console(width=max(console.width, needed)).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as CSV with a header."""
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def plot(path: Path, rows: Sequence[Mapping[str, Any]], engines: Sequence[str]) -> None:
    """Accuracy against bit operations, bytes and latency; without accuracies, the costs against the mode."""
    from matplotlib.figure import Figure

    columns = {"bops": "bit operations", "weight_bytes": "bytes of weights"}
    columns |= {f"{engine}_ms": f"{engine}, ms" for engine in engines}
    figure = Figure(figsize=(4 * len(columns), 3.5), layout="constrained")
    known = all(row["top1"] is not None for row in rows)
    for axes, (key, label) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
    ):
        shown = [row for row in rows if row[key] is not None]
        heights = [100 * row["top1"] if known else i for i, row in enumerate(shown)]
        axes.plot([row[key] for row in shown], heights, "o-")
        for row, height in zip(shown, heights, strict=True):
            axes.annotate(row["mode"], (row[key], height), (4, 4), textcoords="offset points")
        axes.set_xlabel(label)
        if not key.endswith("_ms"):
            axes.set_xscale("log")
        axes.set_ylabel("top-1 accuracy, %" if known else "mode")
        axes.grid(alpha=0.3)
    save_figure(figure, path)
