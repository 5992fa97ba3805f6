"""The published QEBVerif queries: how many are decided, how fast, and whether any disagrees.

    python benchmarks/verify_queries.py --data DATA --networks p1 p2 --time-limit 60
    python benchmarks/verify_queries.py --data DATA --again --time-limit 1200    # what is open once more

Resumable: rows already in the CSV are kept and not run again; with ``--again`` those that are open are, and
a row is replaced if the query was decided. Each query runs on one thread.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
from pathlib import Path

import numpy as np
import torch

from quantizable.verify import Box, FixedPoint, Query, Verdict, decide_all
from quantizable.verify.fixed_point import fixed_point_network, float_network, load_npz
from quantizable.verify.outcomes import plot_decided

NETWORKS = {"p1": "p1_784_100_10.npz", "p2": "p2_784_100_100_10.npz"}
KEY = ("net", "weight_bits", "error_bound", "mnist_test_index")
METHODS = ("bounds", "search", "milp", "branching")
RESULT = ("published", "verdict", "method", "low", "high", "seconds", "time_limit")


def mnist_test_images(data: Path) -> torch.Tensor:
    """Pixels 0..255, ``(10000, 784)``, float64."""
    raw = gzip.decompress((data / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).copy()).double()


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*KEY, *RESULT))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with qebverif/ and mnist/")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--bits", nargs="+", type=int, default=[10, 8, 6, 4])
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each query")
    parser.add_argument("--again", action="store_true", help="ask what is open once more")
    parser.add_argument("--branch", action="store_true", help="branch and bound, see verify/branching.py")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verify_queries.csv"))
    parser.add_argument("--plot", type=Path, default=Path("docs/results/verify_decided.png"))
    args = parser.parse_args()

    images = mnist_test_images(args.data)
    published = read_rows(args.data / "qebverif" / "published_verdicts.csv")
    done = read_rows(args.output)
    again = {tuple(row[k] for k in KEY) for row in done if args.again and row["verdict"] == "unknown"}
    known = {tuple(row[k] for k in KEY) for row in done} - again
    queries: list[Query] = []
    listed: dict[str, dict[str, str]] = {}
    for net in args.networks:
        weights, biases = load_npz(args.data / "qebverif" / NETWORKS[net])
        network = float_network(weights, biases)
        for bits in args.bits:
            fixed = fixed_point_network(weights, biases, FixedPoint(bits))
            for row in published:
                key = tuple(row[k] for k in KEY)
                if (row["net"], row["weight_bits"]) != (net, str(bits)) or key in known:
                    continue
                image = images[[int(row["mnist_test_index"])]]
                box = Box.around(image, 3, 0, 255, integer=True)
                output = int(network(image).argmax())
                eps = float(row["error_bound"])
                name = " ".join(key)
                queries.append(Query(name, network, fixed, box, output, eps, args.time_limit, args.branch))
                listed[name] = row
    for query, verdict in decide_all(queries, args.processes):
        row = listed[query.name]
        if verdict.status != "unknown" or tuple(row[k] for k in KEY) not in again:
            done = [one for one in done if any(one[k] != row[k] for k in KEY)]
            done.append(result(row, verdict, args.time_limit))
            write_rows(args.output, done)
        print(
            query.name, row["verdict"], verdict.status, verdict.method, f"{verdict.seconds:.1f} s", flush=True
        )
    summarise(done)
    verdicts = [
        Verdict(r["verdict"], r["method"], float(r["low"]), float(r["high"]), float(r["seconds"]))  # type: ignore[arg-type]
        for r in done
    ]
    args.plot.parent.mkdir(parents=True, exist_ok=True)
    plot_decided(verdicts, args.plot)


def result(row: dict[str, str], verdict: Verdict, limit: float) -> dict[str, str]:
    """A row of the CSV."""
    return {
        **{k: row[k] for k in KEY},
        "published": row["verdict"],
        "verdict": verdict.status,
        "method": verdict.method,
        "low": f"{verdict.low:.6f}",
        "high": f"{verdict.high:.6f}",
        "seconds": f"{verdict.seconds:.3f}",
        "time_limit": f"{limit:g}",
    }


def summarise(rows: list[dict[str, str]]) -> None:
    """A line per network and bit-width."""
    print("net bits queries by-bounds by-search by-milp by-branching unknown contradictions slowest-decided")
    for group in sorted({(r["net"], int(r["weight_bits"])) for r in rows}):
        mine = [r for r in rows if (r["net"], int(r["weight_bits"])) == group]
        decided = [r for r in mine if r["verdict"] != "unknown"]
        counts = [
            sum(r["method"].startswith(m) for r in decided) for m in ("bounds", "search", "milp", "branching")
        ]
        wrong = sum(r["verdict"] != r["published"] for r in decided)
        slowest = max(float(r["seconds"]) for r in decided)
        print(*group, len(mine), *counts, len(mine) - len(decided), wrong, f"{slowest:.1f} s")


if __name__ == "__main__":
    main()
