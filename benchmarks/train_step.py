"""What a training step in K modes costs beside K passes of the bare float network.

    python benchmarks/train_step.py                                    # all networks, eager
    python benchmarks/train_step.py --networks resnet20 --execution eager compiled
    python benchmarks/train_step.py --quantizers lsq dorefa pact --peers adabits any_precision
    python benchmarks/train_step.py --scheme sandwich --modes 2 3 4 5 6 8 32
    python benchmarks/train_step.py --accumulate 8 --no-peaks
    python benchmarks/train_step.py --device cuda

All sides run in one process and in turn; a ratio is the median over the rounds. In eager mode on a CPU the
same step runs without the loops of ``quantizable/kernels``, too ("one by one"), and with LSQ also with each
ReLU apart from the quantizer behind it ("ReLU apart"). With several batches a step (``--accumulate``) it runs
with weights quantized once for all of them instead ("kept weights"). On a machine that others use,
``--threads 1`` and the ratio of processor time are what can be trusted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import product
from typing import Any
from unittest import mock

import torch
from peer_formulas import FORMULAS, peer_step
from steps import (
    CASES,
    Case,
    Setting,
    Step,
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

from quantizable.kernels import loops
from quantizable.nn.fused_relu import FusedActivation
from quantizable.quantizers import QUANTIZERS
from quantizable.training.memory import keep_freed_memory
from quantizable.training.schemes import SCHEMES


def first_seconds(step: Any) -> float:
    """Seconds of a first step, which is where a compiled one is compiled."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def one_by_one(step: Step) -> Step:
    """The step with torch's operations in place of the loops."""

    def without_loops() -> None:
        with mock.patch.object(loops, "library", return_value=None):
            step()

    return without_loops


def compare(
    case: Case,
    setting: Setting,
    modes: list[str],
    repeats: int,
    scheme: str = "quantizable",
    quantizer: str = "lsq",
    peers: Sequence[str] = (),
    peaks: bool = True,
    accumulate: int = 1,
) -> dict[str, Any]:
    """One row of the table."""
    torch.compiler.reset()
    visits = 3 if scheme in ("sandwich", "random_k") else len(modes)
    passes = visits * accumulate
    bare = bare_step(make_network(case, setting), setting, case, passes)

    def new_step(relu_apart: bool = False, keep_weights: bool = False) -> Step:
        network = quantizable_network(case, setting, modes, quantizer)
        for module in network.modules():
            if relu_apart and isinstance(module, FusedActivation):
                module.readers.several = True  # so that it quantizes for nobody
        return multi_mode_step(network, setting, case, SCHEMES[scheme], accumulate, keep_weights)

    steps = {"bare": bare, "ours": new_step()}
    first = {name: first_seconds(step) for name, step in steps.items()}
    if accumulate > 1:
        steps["kept weights"] = new_step(keep_weights=True)
    elif setting.device == "cpu" and setting.execution == "eager":
        steps["one by one"] = one_by_one(new_step())
        if quantizer == "lsq":
            steps["ReLU apart"] = new_step(relu_apart=True)
    for peer in peers:
        steps[peer] = peer_step(peer, case, setting, [int(mode) for mode in modes])
    times = interleaved(steps, repeats, setting.device, warmup=1)
    others = [name for name in steps if name not in ("bare", "ours")]
    row = {
        "network": case.model,
        "quantizer": quantizer,
        "scheme": scheme,
        "batch": case.batch,
        "device": setting.device,
        "dtype": setting.dtype,
        "layout": setting.layout,
        "execution": setting.execution,
        "modes": len(modes),
        "batches a step": accumulate,
        "bare, ms a pass": statistics.median(times["bare"].wall) * 1e3 / passes,
        "ours, ms a mode": statistics.median(times["ours"].wall) * 1e3 / passes,
        "ratio": ratio(times["ours"], times["bare"], "wall"),
        "ratio of processor time": ratio(times["ours"], times["bare"], "cpu"),
        "bare passes a step": ratio(times["ours"], times["bare"], "wall") * passes,
    }
    for name in others:
        row[f"{name}, ratio"] = ratio(times[name], times["bare"], "wall")
        row[f"{name}, ratio of processor time"] = ratio(times[name], times["bare"], "cpu")
    row |= {"first step, s": first["ours"], "first bare step, s": first["bare"]}
    if peaks:
        row["peak, MiB"] = round(peak_mib(case, setting, scheme, modes))
        row["bare peak, MiB"] = round(peak_mib(case, setting, None, modes))
    return row


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=["float32", "bf16"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last"], choices=["nchw", "channels_last"])
    parser.add_argument("--execution", nargs="+", default=["eager"], choices=["eager", "compiled"])
    parser.add_argument("--modes", nargs="+", type=mode, default=["2", "4", "8", "32"])
    parser.add_argument("--quantizers", nargs="+", default=["lsq"], choices=list(QUANTIZERS))
    parser.add_argument("--scheme", default="quantizable", choices=list(SCHEMES))
    parser.add_argument(
        "--peers", nargs="+", default=[], choices=list(FORMULAS), help="their step beside ours"
    )
    parser.add_argument("--no-peaks", action="store_true", help="leave out the two processes for the memory")
    parser.add_argument("--accumulate", type=positive, default=1, help="batches per optimizer step")
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
    for name, quantizer, dtype, layout, execution in product(
        args.networks, args.quantizers, args.dtypes, args.layouts, args.execution
    ):
        setting = Setting(args.device, dtype, layout, execution)
        rows.append(
            compare(
                CASES[name],
                setting,
                args.modes,
                args.repeats,
                args.scheme,
                quantizer,
                args.peers,
                peaks=not args.no_peaks,
                accumulate=args.accumulate,
            )
        )
        save(args.out, args.device, rows)  # after every row: a long run that is cut off leaves what it has
        print(table(rows[-1:]), flush=True)
    columns = dict.fromkeys(column for row in rows for column in row)  # compiled rows have fewer
    print(table([{column: row.get(column, "") for column in columns} for row in rows]))


if __name__ == "__main__":
    main()
