"""Seconds and peak memory of a step against the number of modes, for all modes and for the sandwich.

    python benchmarks/growth.py --network resnet20

The peak is measured in a process of its own for each row.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from steps import (
    CASES,
    Setting,
    bare_step,
    command_line,
    device,
    interleaved,
    make_network,
    multi_mode_step,
    peak_mib,
    positive,
    quantizable_network,
    save,
    table,
)

from quantizable.training.memory import keep_freed_memory
from quantizable.training.schemes import SCHEMES

MODES = {1: ["4"], 2: ["2", "8"], 4: ["2", "4", "8", "32"], 7: ["2", "3", "4", "5", "6", "8", "32"]}
SERIES = [("quantizable", n) for n in MODES] + [("sandwich", n) for n in MODES if n > 1]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--network", default="resnet20", choices=list(CASES))
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--repeats", type=positive, default=10)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument(
        "--out", help="name of the JSON file in benchmarks/results; growth_NETWORK by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    setting = Setting(args.device, args.dtype)
    case = CASES[args.network]
    steps = {"bare": bare_step(make_network(case, setting), setting, case, passes=1)}
    for scheme, n in SERIES:
        network = quantizable_network(case, setting, MODES[n])
        steps[f"{scheme} {n}"] = multi_mode_step(network, setting, case, SCHEMES[scheme])
    times = interleaved(steps, args.repeats, args.device, warmup=1)
    rows: list[dict[str, Any]] = []
    for scheme, n in SERIES:
        clock = times[f"{scheme} {n}"]
        passes = [a / b for a, b in zip(clock.cpu, times["bare"].cpu, strict=True)]
        rows.append(
            {
                "scheme": scheme,
                "modes": n,
                "seconds a step": statistics.median(clock.wall),
                "bare passes (processor time)": statistics.median(passes),
                "peak memory in use, MiB": round(peak_mib(CASES[args.network], setting, scheme, MODES[n])),
                "resident with glibc's heap, MiB": round(
                    peak_mib(CASES[args.network], setting, scheme, MODES[n], fragmented=True)
                ),
            }
        )
    save(args.out or f"growth_{args.network}", args.device, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
