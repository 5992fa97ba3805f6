"""What a training step in K modes costs beside K passes of the bare float network.

    python benchmarks/train_step.py                                    # all networks, eager
    python benchmarks/train_step.py --networks resnet20 --execution eager compiled
    python benchmarks/train_step.py --device cuda

Both sides run in one process and in turn; the ratio is the median over the rounds. On a machine that
others use, too, ``--threads 1`` and the ratio of processor time are what can be trusted.
"""

from __future__ import annotations

import statistics
import time
from itertools import product
from typing import Any

import torch
from steps import (
    CASES,
    Case,
    Setting,
    bare_step,
    command_line,
    device,
    interleaved,
    make_network,
    mode,
    multi_mode_step,
    peak_mib,
    positive,
    quantizable_network,
    ratio,
    save,
    table,
)

from quantizable.training.memory import keep_freed_memory
from quantizable.training.schemes import SCHEMES


def first_seconds(step: Any) -> float:
    """Seconds of a first step, which is where a compiled one is compiled."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def compare(
    case: Case, setting: Setting, modes: list[str], repeats: int, scheme: str = "quantizable"
) -> dict[str, Any]:
    """One row of the table."""
    torch.compiler.reset()
    bare = bare_step(make_network(case, setting), setting, case, passes=len(modes))
    ours = multi_mode_step(quantizable_network(case, setting, modes), setting, case, SCHEMES[scheme])
    first = {"bare": first_seconds(bare), "ours": first_seconds(ours)}
    times = interleaved({"bare": bare, "ours": ours}, repeats, setting.device, warmup=1)
    return {
        "network": case.model,
        "batch": case.batch,
        "device": setting.device,
        "dtype": setting.dtype,
        "layout": setting.layout,
        "execution": setting.execution,
        "modes": len(modes),
        "bare, ms a pass": statistics.median(times["bare"].wall) * 1e3 / len(modes),
        "ours, ms a mode": statistics.median(times["ours"].wall) * 1e3 / len(modes),
        "ratio": ratio(times["ours"], times["bare"], "wall"),
        "ratio of processor time": ratio(times["ours"], times["bare"], "cpu"),
        "first step, s": first["ours"],
        "first bare step, s": first["bare"],
        "peak, MiB": round(peak_mib(case, setting, scheme, modes)),
        "bare peak, MiB": round(peak_mib(case, setting, None, modes)),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bf16"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last"], choices=["nchw", "channels_last"])
    parser.add_argument("--execution", nargs="+", default=["eager"], choices=["eager", "compiled"])
    parser.add_argument("--modes", nargs="+", type=mode, default=["2", "4", "8", "32"])
    parser.add_argument("--repeats", type=positive, default=10)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--default-malloc", action="store_true", help="leave glibc's memory as it is")
    parser.add_argument("--out", default="train_step", help="name of the JSON file in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.default_malloc:
        keep_freed_memory()  # as training does; for both sides
    rows: list[dict[str, Any]] = []
    for name, dtype, layout, execution in product(args.networks, args.dtypes, args.layouts, args.execution):
        rows.append(
            compare(CASES[name], Setting(args.device, dtype, layout, execution), args.modes, args.repeats)
        )
        save(args.out, args.device, rows)  # after every row: a long run that is cut off leaves what it has
        print(table(rows[-1:]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
