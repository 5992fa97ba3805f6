"""Seconds and peak memory of a step against the number of modes, for all modes and for the sandwich.

    python benchmarks/growth.py --network resnet20

The peak is measured in a process of its own for each row: on the CPU the highest resident memory less
that before the network is built, on a GPU what torch allocated at most.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch
from steps import (
    CASES,
    Setting,
    bare_step,
    command_line,
    interleaved,
    make_network,
    multi_mode_step,
    quantizable_network,
    save,
    table,
)

from quantizable.schemes import SCHEMES

MODES = {1: ["4"], 2: ["2", "8"], 4: ["2", "4", "8", "32"], 7: ["2", "3", "4", "5", "6", "8", "32"]}
SERIES = [("quantizable", n) for n in MODES] + [("sandwich", n) for n in MODES if n > 1]


def resident_mib() -> float:
    """Highest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_mib(network: str, setting: Setting, scheme: str, modes: int) -> float:
    """Peak memory of two steps, MiB; to be called in a fresh process."""
    case = CASES[network]
    before = resident_mib()
    step = multi_mode_step(quantizable_network(case, setting, MODES[modes]), setting, case, SCHEMES[scheme])
    step(), step()
    return torch.cuda.max_memory_allocated() / 2**20 if setting.device == "cuda" else resident_mib() - before


def measured_apart(args: argparse.Namespace, scheme: str, modes: int) -> float:
    """:func:`peak_mib` in a fresh process."""
    command = [sys.executable, *sys.argv, "--peak-of", scheme, str(modes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--network", default="resnet20", choices=list(CASES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    setting = Setting(args.device, args.dtype)
    if args.peak_of:
        print(json.dumps(peak_mib(args.network, setting, args.peak_of[0], int(args.peak_of[1]))))
        return
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
                "peak memory, MiB": round(measured_apart(args, scheme, n)),
            }
        )
    save(f"growth_{args.network}", args.device, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
