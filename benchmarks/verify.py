"""Difference bounds of the published benchmark: agreement with the published widths, and time.

    python benchmarks/verify.py --data DATA

Prints a table and writes ``benchmarks/results/verify_bounds.json``. Times are the mean per image
of one call on a batch, the median of several calls, on the threads given: wall clock, and in
parentheses processor time, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from verify_queries import NETWORKS, mnist_test_images, read_rows

from quantizable.verify import (
    METHODS,
    Box,
    FixedPoint,
    Graph,
    difference_bounds,
    fixed_point_network,
    float_network,
    load_npz,
)
from quantizable.verify.stages import INFINITY, Activation


def naive_width_error(
    network: Graph, fixed: Graph, scheme: FixedPoint, images: torch.Tensor, published: torch.Tensor
) -> float:
    """Largest relative deviation from the published widths.

    They are of a network whose output is rounded to the grid of the hidden activations.
    """
    grid = replace(scheme.activation, low=-INFINITY, high=INFINITY)
    box = Box.around(images, 3, 0, 255, integer=True)
    pair = network.then(Activation()), fixed.then(grid)
    width = difference_bounds(*pair, box, "naive").output.width
    width = width.gather(1, network(images).argmax(1, keepdim=True))[:, 0]
    return float(((width - published).abs() / published).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with qebverif/ and mnist/")
    parser.add_argument("--images", type=int, default=30, help="batch of the timed calls")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verify_bounds.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    images = mnist_test_images(args.data)
    published = read_rows(args.data / "qebverif" / "published_output_widths.csv")
    rows = []
    for net, file in NETWORKS.items():
        weights, biases = load_npz(args.data / "qebverif" / file)
        network = float_network(weights, biases)
        for bits in (4, 6, 8, 10):
            scheme = FixedPoint(bits)
            fixed = fixed_point_network(weights, biases, scheme)
            wanted = [r for r in published if (r["net"], r["weight_bits"]) == (net, str(bits))]
            chosen = images[[int(r["mnist_test_index"]) for r in wanted]]
            widths = torch.tensor([float(r["output_width"]) for r in wanted], dtype=torch.float64)
            row = {
                "net": net,
                "bits": bits,
                "published_widths": len(wanted),
                "largest_relative_error": naive_width_error(network, fixed, scheme, chosen, widths),
            }
            output = network(chosen).argmax(1, keepdim=True)
            timed = Box.around(images[: args.images], 3, 0, 255, integer=True)
            for method in METHODS:
                box = Box.around(chosen, 3, 0, 255, integer=True)
                found = difference_bounds(network, fixed, box, method).output  # type: ignore[arg-type]
                row[f"{method}_mean_width"] = float(found.width.gather(1, output).mean())
                times, cpu = [], []
                for _ in range(args.repeats):
                    start, start_cpu = time.perf_counter(), time.process_time()
                    difference_bounds(network, fixed, timed, method)  # type: ignore[arg-type]
                    times.append((time.perf_counter() - start) / args.images)
                    cpu.append((time.process_time() - start_cpu) / args.images)
                row[f"{method}_seconds_per_image"] = statistics.median(times)
                row[f"{method}_cpu_seconds_per_image"] = statistics.median(cpu)
            rows.append(row)

    table = Table(
        title=f"Mean width over the published images; wall (CPU) time per image, {args.threads} threads"
    )
    for column in ("net", "bits", "error of published widths", *METHODS):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            f"{row[f'{m}_mean_width']:.3f}, {1000 * row[f'{m}_seconds_per_image']:.1f} "
            f"({1000 * row[f'{m}_cpu_seconds_per_image']:.1f}) ms"
            for m in METHODS
        ]
        table.add_row(row["net"], str(row["bits"]), f"{row['largest_relative_error']:.1e}", *cells)
    Console(width=150).print(table)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part = args.output.with_suffix(".json.part")
    settings = {"images": args.images, "repeats": args.repeats, "threads": args.threads}
    part.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    os.replace(part, args.output)


if __name__ == "__main__":
    main()
